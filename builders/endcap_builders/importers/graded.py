"""Imports Home Depot and CrowdFlower search relevance: products, queries with a split, mean or median human grades."""

from pathlib import Path

import polars as pl

from endcap_builders.catalogue.schema import Catalogue
from endcap_builders.importers.source import choose, read_source, search_log, write_import


def import_homedepot(source: Path, target: Path, split: str = "train") -> Catalogue:
    """Home Depot: titles, graded 1 to 3 (mean of at least three raters). See ``import_graded``."""
    return import_graded(source, target, split)


def import_crowdflower(source: Path, target: Path, split: str = "train") -> Catalogue:
    """CrowdFlower: titles and descriptions, graded 1 to 4 (median of three raters). See ``import_graded``."""
    return import_graded(source, target, split)


def import_graded(source: Path, target: Path, split: str) -> Catalogue:
    """All products, but queries and judgements of ``split`` ("train" or "dev") only.

    Queries of the other split are not in the catalogue, not even as search keywords, so that they can be used for an
    evaluation. A text in both splits is left out.
    """
    choose("split", split, ("train", "dev"))
    products = read_source(source, "products.parquet", ["product_id", "title"], optional=["description"])
    queries = read_source(source, "queries.parquet", ["query_id", "query", "split"])
    labels = read_source(source, "labels.parquet", ["query_id", "product_id", "relevance"])
    plain = pl.col("query").str.to_lowercase().str.strip_chars().str.replace_all(r"\s+", " ")
    other = queries.filter(pl.col("split") != split).select(plain)["query"]
    queries = queries.filter((pl.col("split") == split) & ~plain.is_in(other.implode()))
    judgements = labels.join(queries, on="query_id", maintain_order="left")
    return write_import(
        target,
        products.with_columns(pl.col("product_id").cast(pl.String)),
        queries=search_log(queries["query"]),
        judgements=judgements.select("query", pl.col("product_id").cast(pl.String), "relevance"),
    )
