"""Step ``keyword_llm``: the student that orders keywords (LLM 2)."""

from pathlib import Path
from typing import Any

from pydantic import Field

from endcap_builders.llm.settings import StudentSettings
from endcap_builders.step import BuildContext, Step


class KeywordStudentSettings(StudentSettings):
    """Settings of the keyword student."""

    layers: int = Field(2, ge=1, le=64, description="layers of a model made from scratch")
    train_tokens: int = Field(
        280_000,
        ge=0,
        description="tokens to train on; 0: use the checkpoint as it is",
    )


def run(ctx: BuildContext, settings: KeywordStudentSettings) -> dict[str, Any]:
    """Train, export and measure."""
    from endcap_server.shop.prompts import CANDIDATE_TOKENS

    from endcap_builders.llm.build import Lesson, build_student
    from endcap_builders.llm.evaluation import evaluate_keywords
    from endcap_builders.llm.examples import OrderExample
    from endcap_builders.llm.ordering import Ordering

    lesson = Lesson(OrderExample, Ordering, export_keyword_llm, evaluate_keywords, CANDIDATE_TOKENS)
    return build_student(ctx, settings, ctx.input("merchandising") / "keywords.jsonl", lesson)


def export_keyword_llm(ctx: BuildContext, trained: Path) -> None:
    """Write model.xml and tokenizer.json; with the GPU profile also model.onnx and model.plan."""
    from endcap_server.engines.keyword_llm import MAX_PROMPT_TOKENS

    from endcap_builders.export.encoder import export_candidate_logits
    from endcap_builders.export.onnx import export_candidate_logits_onnx
    from endcap_builders.export.tensorrt import compile_engine
    from endcap_builders.llm.student import load_student

    model, tokenizer = load_student(trained)
    tokenizer.backend_tokenizer.save(str(ctx.output / "tokenizer.json"))
    export_candidate_logits(model, tokenizer, ctx.output / "model.xml")
    if ctx.profile == "gpu":
        inputs = export_candidate_logits_onnx(model, tokenizer, ctx.output / "model.onnx")
        compile_engine(ctx.output / "model.onnx", ctx.output / "model.plan", inputs, MAX_PROMPT_TOKENS)


STEP = Step(
    name="keyword_llm",
    help="training the student that orders keywords",
    needs=("merchandising",),
    settings=KeywordStudentSettings,
    run=run,
    on_refresh="learned",
    reads={"merchandising": ("keywords.jsonl",)},
)
