"""Step ``theme_llm``: the student that writes themes (LLM 1)."""

from typing import Any

from endcap_server.shop.columns import StringColumn
from endcap_server.shop.prompts import parse_themes
from endcap_server.shop.title_checks import TITLE_WORDS, title_words

from endcap_builders.llm.build import build_student
from endcap_builders.llm.evaluation import evaluate_themes
from endcap_builders.llm.examples import read_examples
from endcap_builders.llm.student import StudentSettings
from endcap_builders.pipeline import BuildContext, Step


def run(ctx: BuildContext, settings: StudentSettings) -> dict[str, Any]:
    """Train, export and measure."""
    folder = ctx.input("merchandising")
    known = {*StringColumn.open(ctx.input("store"), "keywords"), *StringColumn.open(folder, "topics")}
    figures = build_student(
        ctx, settings, folder / "themes.jsonl", lambda exported, held_out: evaluate_themes(exported, held_out, known)
    )
    drafts = (parse_themes(example.completion) for example in read_examples(folder / "themes.jsonl"))
    words = title_words(theme.title for themes in drafts for theme in themes)
    (ctx.output / TITLE_WORDS).write_text("\n".join(words) + "\n", encoding="utf-8")
    return {**figures, "title_words": len(words)}


STEP = Step(
    name="theme_llm",
    help="training the student that writes themes",
    needs=("store", "merchandising"),
    settings=StudentSettings,
    run=run,
    reads={"store": ("keywords.*",), "merchandising": ("themes.jsonl", "topics.*")},
)
