"""Step `teacher`: a classifier with soft targets that grades (query, product) pairs."""

from typing import Any

from endcap_builders.catalogue.groups import JUDGEMENTS, TEXTS
from endcap_builders.relevance.settings import THEME_PRODUCTS, TeacherSettings
from endcap_builders.step import BuildContext, Step
from endcap_builders.steps.store import TEXTS_ONLY


def run(ctx: BuildContext, settings: TeacherSettings) -> dict[str, Any]:
    """Write checkpoint, tokenizer, grades.json, and labels.json (settings of the labels, for the student)."""
    from endcap_builders.relevance.teaching import build_teacher

    return build_teacher(ctx, settings)


STEP = Step(
    name="teacher",
    needs=("catalogue", "bi_encoder", "store", "merchandising"),
    settings=TeacherSettings,
    run=run,
    on_refresh="learned",
    help="training the relevance teacher",
    reads={"catalogue": (TEXTS, JUDGEMENTS), "store": TEXTS_ONLY, "merchandising": (THEME_PRODUCTS,)},
)
