"""Step `catalogue`: check the catalogue before anything is built from it, and write a digest of each of its groups."""

import json
from typing import Any

from endcap_builders.catalogue.cut import EventCut
from endcap_builders.catalogue.groups import group_digests
from endcap_builders.catalogue.read import read_catalogue
from endcap_builders.step import BuildContext, Settings, Step


class CatalogueSettings(EventCut, Settings):
    """Settings of the catalogue: the cut of the events."""


def run(ctx: BuildContext, settings: CatalogueSettings) -> dict[str, Any]:
    """Read and check every file; write each group's digest; keep counts and warnings in the manifest."""
    catalogue = ctx.catalogue
    figures: dict[str, Any] = {
        "products": catalogue.products.height,
        "events": catalogue.events.height if catalogue.events is not None else 0,
        "queries": catalogue.queries.height if catalogue.queries is not None else 0,
        "judgements": catalogue.judgements.height if catalogue.judgements is not None else 0,
    }
    ctx.log(", ".join(f"{count:,} {name}" for name, count in figures.items()))
    (ctx.output / "counts.json").write_text(json.dumps(figures) + "\n", encoding="utf-8")
    for group, digest in group_digests(catalogue).items():
        (ctx.output / group).write_text(digest + "\n", encoding="utf-8")
    return {**figures, "columns": catalogue.columns, "warnings": list(catalogue.warnings)}


STEP = Step(
    name="catalogue",
    needs=(),
    settings=CatalogueSettings,
    run=run,
    help="checking the catalogue",
    code=(read_catalogue,),
    shapes=dict.fromkeys(EventCut.model_fields, ("ranker",)),
)
