"""Step `catalogue`: check the catalogue before anything is built from it."""

import json
from typing import Any

from endcap_builders.catalogue.cut import EventCut
from endcap_builders.pipeline import BuildContext, Settings, Step


class CatalogueSettings(EventCut, Settings):
    """Options of the catalogue: which events the build may see."""


def run(ctx: BuildContext, settings: CatalogueSettings) -> dict[str, Any]:
    """Read and check every file; keep the counts, and the warnings in the manifest."""
    catalogue = ctx.catalogue
    figures: dict[str, Any] = {
        "products": catalogue.products.height,
        "events": catalogue.events.height if catalogue.events is not None else 0,
        "queries": catalogue.queries.height if catalogue.queries is not None else 0,
        "judgements": catalogue.judgements.height if catalogue.judgements is not None else 0,
    }
    ctx.log(", ".join(f"{count:,} {name}" for name, count in figures.items()))
    (ctx.output / "counts.json").write_text(json.dumps(figures) + "\n", encoding="utf-8")
    return {**figures, "warnings": list(catalogue.warnings)}


STEP = Step(name="catalogue", needs=(), settings=CatalogueSettings, run=run, help="checking the catalogue")
