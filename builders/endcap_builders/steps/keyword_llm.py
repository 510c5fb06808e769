"""Step ``keyword_llm``: the student that chooses keywords (LLM 2)."""

from typing import Any

from pydantic import Field

from endcap_builders.llm.settings import EXPORTER, StudentSettings
from endcap_builders.step import BuildContext, Step


class KeywordStudentSettings(StudentSettings):
    """Settings of the keyword student."""

    train_tokens: int = Field(
        280_000,
        ge=0,
        description="tokens to train on; 0: use the checkpoint as it is",
    )
    prompt_weight: float = Field(
        0.02, ge=0, le=1, description="weight of the prompt's tokens in the loss; answers, of a few tokens only, have 1"
    )


def run(ctx: BuildContext, settings: KeywordStudentSettings) -> dict[str, Any]:
    """Train, export and measure."""
    from endcap_builders.llm.build import build_student
    from endcap_builders.llm.evaluation import evaluate_keywords

    return build_student(ctx, settings, ctx.input("merchandising") / "keywords.jsonl", evaluate_keywords)


STEP = Step(
    name="keyword_llm",
    help="training the student that chooses keywords",
    needs=("merchandising",),
    settings=KeywordStudentSettings,
    run=run,
    on_refresh="learned",
    packages=EXPORTER,
    reads={"merchandising": ("keywords.jsonl",)},
)
