"""Imports the Icecat products of the Chorus project: electronics with part numbers, prices and pictures."""

from pathlib import Path

import polars as pl

from endcap_builders.catalogue.schema import Catalogue
from endcap_builders.importers.source import read_source, write_import


def import_icecat(source: Path, target: Path) -> Catalogue:
    """All products of ``products.parquet``; the judged queries are left out, for evaluations."""
    columns = ["product_id", "title", "part_number", "description", "brand", "price", "image"]
    products = read_source(source, "products.parquet", columns)
    return write_import(
        target,
        products.with_columns(pl.col("product_id").cast(pl.String), pl.col("price").cast(pl.Float32)).rename(
            {"part_number": "identifiers"}
        ),
    )
