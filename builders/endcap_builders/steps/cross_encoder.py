"""Step `cross_encoder`: trains the served student on the teacher's margins, calibrates and exports it."""

from typing import Any

from endcap_builders.catalogue.groups import JUDGEMENTS, TEXTS
from endcap_builders.relevance.settings import THEME_PRODUCTS, CrossEncoderSettings
from endcap_builders.step import BuildContext, Step
from endcap_builders.steps.store import TEXTS_ONLY


def run(ctx: BuildContext, settings: CrossEncoderSettings) -> dict[str, Any]:
    """Write the checkpoint, model.xml, tokenizer.json, calibration.json; for a GPU also model.onnx and model.plan."""
    from endcap_builders.relevance.distilling import build_cross_encoder

    return build_cross_encoder(ctx, settings)


STEP = Step(
    name="cross_encoder",
    needs=("catalogue", "bi_encoder", "store", "merchandising", "teacher"),
    settings=CrossEncoderSettings,
    run=run,
    on_refresh="learned",
    help="distilling and exporting the cross-encoder",
    reads={"catalogue": (TEXTS, JUDGEMENTS), "store": TEXTS_ONLY, "merchandising": (THEME_PRODUCTS,)},
)
