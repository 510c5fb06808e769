"""Step ``theme_llm``: the student that writes themes (LLM 1)."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from endcap_server.shop.columns import StringColumn
from endcap_server.shop.prompts import parse_themes, quoted_texts
from endcap_server.shop.title_checks import (
    SEARCH_WORDS,
    TITLE_JOINS,
    TITLE_WORDS,
    search_words,
    title_joins,
    title_words,
)
from pydantic import Field

from endcap_builders.llm.examples import Example, read_examples
from endcap_builders.llm.settings import EXPORTER, StudentSettings
from endcap_builders.step import BuildContext, Step


class ThemeStudentSettings(StudentSettings):
    """Settings of the theme student."""

    train_tokens: int = Field(
        1_000_000,
        ge=0,
        description="tokens to train on (some four minutes on two cores); 0: use the checkpoint as it is",
    )
    prompt_weight: float = Field(
        0.1, ge=0, le=1, description="weight of the prompt's tokens in the loss; answers have 1"
    )


def run(ctx: BuildContext, settings: ThemeStudentSettings) -> dict[str, Any]:
    """Train, export and measure."""
    from endcap_builders.llm.build import Lesson, build_student
    from endcap_builders.llm.evaluation import evaluate_themes
    from endcap_builders.llm.writing import Writing

    folder = ctx.input("merchandising")
    known = {*StringColumn.open(ctx.input("store"), "keywords"), *StringColumn.open(ctx.input("topics"), "topics")}
    lesson = Lesson(
        Example,
        lambda tokenizer: Writing(settings.prompt_weight),
        partial(_export, settings.weights),
        lambda exported, held_out: evaluate_themes(exported, held_out, known),
    )
    figures = build_student(ctx, settings, folder / "themes.jsonl", lesson)
    return {**figures, "title_words": _write_words(ctx.output, read_examples(folder / "themes.jsonl", Example))}


def _export(weights: str, ctx: BuildContext, trained: Path) -> None:
    """Write the served model; with the GPU profile also the checkpoint for TensorRT-LLM."""
    from endcap_builders.export.trtllm import export_for_tensorrt_llm
    from endcap_builders.llm.export import export_student

    export_student(trained, ctx.output, weights)
    if ctx.profile == "gpu":
        export_for_tensorrt_llm(trained, ctx.output / "trtllm")


def _write_words(output: Path, examples: Iterable[Example]) -> int:
    """Write the words that titles may have, those about searches, and how little words meet; return how many words."""
    about_searches: list[tuple[str, str]] = []
    others: list[str] = []
    for example in examples:
        shopper = example.prompt.split("\n", 1)[0]
        searches = quoted_texts(shopper)[1]
        for theme in parse_themes(example.completion, shopper):
            if theme.concepts[0] in searches:
                about_searches.append((theme.title, theme.concepts[0]))
            else:
                others.append(theme.title)
    titles = [*(title for title, _ in about_searches), *others]
    words = title_words(titles)
    lists = {
        TITLE_WORDS: words,
        SEARCH_WORDS: search_words(about_searches, others),
        TITLE_JOINS: title_joins(titles),
    }
    for name, listed in lists.items():
        (output / name).write_text("\n".join([*listed, ""]), encoding="utf-8")
    return len(words)


STEP = Step(
    name="theme_llm",
    help="training the student that writes themes",
    needs=("store", "topics", "merchandising"),
    settings=ThemeStudentSettings,
    run=run,
    on_refresh="learned",
    packages=EXPORTER,
    reads={"store": ("keywords.*",), "topics": ("topics.*",), "merchandising": ("themes.jsonl",)},
)
