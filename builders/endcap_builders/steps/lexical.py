"""Step `lexical`: the index of the products' words and codes."""

from typing import Any

import polars as pl
from endcap_server.engines.lexical import LANGUAGES, ProductWords, write_lexical
from pydantic import Field

from endcap_builders.catalogue.groups import TEXTS
from endcap_builders.markup import plain_text
from endcap_builders.step import BuildContext, Settings, Step


class LexicalSettings(Settings):
    """Options of the step."""

    language: str = Field(
        "english",
        pattern=f"^({'|'.join(LANGUAGES)})?$",
        description="language whose words are stemmed; empty: none is stemmed",
    )
    description_characters: int = Field(
        5000, ge=0, le=100_000, description="characters of a description whose words are indexed"
    )


def run(ctx: BuildContext, settings: LexicalSettings) -> dict[str, Any]:
    """Write the index, in the order of the catalogue's products, which is that of the item store's rows."""
    products = ctx.catalogue.products
    columns = products.select(
        "product_id", "title", "brand", "category", "identifiers",
        pl.col("description").str.slice(0, settings.description_characters),
    )  # fmt: skip
    rows = ctx.track(columns.iter_rows(), "words of products", total=columns.height)
    write_lexical(ctx.output, (_words(*row) for row in rows), settings.language)
    return {"products": products.height, "language": settings.language or "none"}


def _words(product_id: str, title: str, brand: str, category: str, identifiers: str, description: str) -> ProductWords:
    return ProductWords(product_id, title, brand, category, identifiers, plain_text(description))


STEP = Step(
    name="lexical",
    needs=("catalogue",),
    settings=LexicalSettings,
    run=run,
    help="indexing the words of products",
    reads={"catalogue": (TEXTS,)},
)
