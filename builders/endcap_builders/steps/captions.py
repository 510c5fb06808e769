"""Step `captions`: a caption of each product, from its picture or from the catalogue's column `caption`."""

import shutil
from typing import Any

import polars as pl

from endcap_builders.captions.settings import CaptionSettings
from endcap_builders.catalogue.groups import CAPTIONS, TEXTS
from endcap_builders.step import BuildContext, Step

FILE, ANSWERS = "captions.parquet", "captions.jsonl"


def run(ctx: BuildContext, settings: CaptionSettings) -> dict[str, Any]:
    """Write `captions.parquet`: product_id, caption ("" for none), source (picture, column or text)."""
    # Pillow, which only builds with a captioner need.
    from endcap_builders.captions.captioners import captioner_of
    from endcap_builders.captions.pictures import Pictures
    from endcap_builders.captions.writing import given_captions, written_captions

    products = ctx.catalogue.products
    captioner = captioner_of(settings)
    if captioner is None:
        found = given_captions(products["caption"])
    else:
        pictures = Pictures(ctx.catalogue.folder, settings)
        kept = ctx.work / ANSWERS
        before = ctx.input("captions") / ANSWERS
        if before.exists() and not kept.exists() and not ctx.forced:
            shutil.copyfile(before, kept)
        found = written_captions(
            products["image"], products["title"], pictures, captioner, kept, settings.batch, ctx.track
        )
        # A refresh asks only for new pictures.
        shutil.copyfile(kept, ctx.output / ANSWERS)
    table = {"product_id": products["product_id"], "caption": found.texts, "source": found.sources}
    pl.DataFrame(table).write_parquet(ctx.output / FILE)
    cost = captioner.cost if captioner else 0.0
    ctx.log(found.sentence(cost))
    return found.figures(cost)


STEP = Step(
    name="captions",
    needs=("catalogue",),
    settings=CaptionSettings,
    run=run,
    help="writing captions of pictures",
    reads={"catalogue": (TEXTS, CAPTIONS)},
)
