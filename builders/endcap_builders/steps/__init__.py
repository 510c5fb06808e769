"""The steps of a build, one module each."""

from importlib import import_module

from endcap_builders.step import Step

STEP_NAMES = (
    "catalogue",
    "bi_encoder",
    "captions",
    "store",
    "index",
    "lexical",
    "topics",
    "merchandising",
    "teacher",
    "cross_encoder",
    "theme_llm",
    "keyword_llm",
    "behaviour",
    "ranker",
    "gates",
    "postings",
    "repository",
)


def all_steps() -> list[Step]:
    """Every step, in the order in which they are built."""
    steps: list[Step] = [import_module(f"{__name__}.{name}").STEP for name in STEP_NAMES]
    return steps
