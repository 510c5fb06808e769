"""Imports Wayfair's WANDS: tab-separated product.csv, query.csv and label.csv."""

from pathlib import Path

import polars as pl

from endcap_builders.catalogue.schema import Catalogue
from endcap_builders.importers.source import read_source, search_log, write_import

GRADES = {"Exact": 2.0, "Partial": 1.0, "Irrelevant": 0.0}


def import_wands(source: Path, target: Path) -> Catalogue:
    """All products, queries and labels; labels become grades: exact 2, partial 1, irrelevant 0.

    The category hierarchy ("a / b / c") becomes the category path, or the product class if there is none; the
    features ("key : value|key : value") follow the description.
    """
    products = read_source(
        source,
        "product.csv",
        ["product_id", "product_name"],
        optional=["product_class", "category hierarchy", "product_description", "product_features"],
    )
    queries = read_source(source, "query.csv", ["query_id", "query"])
    labels = read_source(source, "label.csv", ["query_id", "product_id", "label"])

    def column(name: str) -> pl.Expr:
        return pl.col(name).fill_null("") if name in products.columns else pl.lit("")

    # ">" separates the parts of a catalogue's path and must not occur inside one.
    parts = column("category hierarchy").str.replace_all(">", "-", literal=True).str.split(" / ")
    parts = parts.list.eval(pl.element().str.strip_chars().filter(pl.element().str.strip_chars() != ""))
    first_class = (
        column("product_class").str.split("|").list.first().fill_null("").str.replace_all(">", "-", literal=True)
    )
    features = column("product_features").str.replace_all(r"\s*:\s*", ": ").str.replace_all(r"\s*\|\s*", "; ")
    products = products.select(
        "product_id",
        title=column("product_name"),
        description=pl.concat_str([column("product_description"), features], separator=" "),
        category=pl.when(parts.list.len() > 0).then(parts.list.join(" > ")).otherwise(first_class),
    )
    judgements = labels.join(queries, on="query_id", maintain_order="left").select(
        "query", "product_id", relevance=pl.col("label").replace_strict(GRADES, return_dtype=pl.Float32)
    )
    return write_import(target, products, queries=search_log(queries["query"]), judgements=judgements)
