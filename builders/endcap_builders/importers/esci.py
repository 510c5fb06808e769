"""Imports Amazon's Shopping Queries (ESCI): products, queries and E/S/C/I labels of one locale."""

from pathlib import Path

import polars as pl

from endcap_builders.catalogue.schema import Catalogue
from endcap_builders.importers.source import choose, read_source, search_log, write_import

LOCALES = ("us", "es", "jp")
GRADES = {"E": 3.0, "S": 2.0, "C": 1.0, "I": 0.0}


def import_esci(source: Path, target: Path, split: str = "train", locale: str = "us") -> Catalogue:
    """All products of ``locale``, and the queries and judgements of its ``split`` ("train" or "test").

    Labels become grades: exact 3, substitute 2, complement 1, irrelevant 0. Bullet points follow the description.
    """
    choose("split", split, ("train", "test"))
    choose("locale", locale, LOCALES)
    products = read_source(
        source,
        "shopping_queries_dataset_products.parquet",
        ["product_id", "product_title", "product_locale"],
        optional=["product_description", "product_bullet_point", "product_brand", "product_color"],
    )
    examples = read_source(
        source,
        "shopping_queries_dataset_examples.parquet",
        ["query", "product_id", "product_locale", "esci_label", "split"],
    )
    products = products.filter(pl.col("product_locale") == locale)
    examples = examples.filter((pl.col("product_locale") == locale) & (pl.col("split") == split))
    texts = [column for column in ("product_description", "product_bullet_point") if column in products.columns]
    products = products.select(
        "product_id",
        title=pl.col("product_title"),
        description=pl.concat_str(texts, separator=" ", ignore_nulls=True) if texts else pl.lit(""),
        brand=pl.col("product_brand") if "product_brand" in products.columns else pl.lit(""),
    )
    judgements = examples.select(
        "query", "product_id", relevance=pl.col("esci_label").replace_strict(GRADES, return_dtype=pl.Float32)
    )
    queries = examples.select("query").unique(maintain_order=True)["query"]
    return write_import(target, products, queries=search_log(queries), judgements=judgements)
