"""Imports MovieLens: films with genres and tags, and good ratings as purchases."""

from datetime import datetime
from pathlib import Path

import polars as pl

from endcap_builders.catalogue.schema import Catalogue, CatalogueError
from endcap_builders.importers.source import read_source, write_import

GOOD = 4.0
"""Least rating that counts as a purchase; other ratings are left out."""
_NO_GENRE = "(no genres listed)"


def import_movielens(source: Path, target: Path, until: str | None = None) -> Catalogue:
    """Films by title, first genre and decade; a rating of at least ``GOOD`` is a purchase at its time.

    The description has all genres and the tags that people gave before ``until`` (ISO 8601, UTC; all without it), so
    that tags do not tell of a later period.
    """
    films = read_source(source, "movies.parquet", ["movieId", "title", "genres"])
    ratings = read_source(source, "ratings.parquet", ["userId", "movieId", "rating", "timestamp"])
    tags = read_source(source, "tags.parquet", ["movieId", "tag", "timestamp"]).filter(_before(until))
    tags = tags.group_by("movieId").agg(pl.col("tag").unique().sort().str.join(", ").alias("tags"))
    genres = pl.when(pl.col("genres") == _NO_GENRE).then(pl.lit("")).otherwise(pl.col("genres"))
    decade = pl.col("title").str.extract(r"\((\d{3})\d\)\s*$") + "0s"
    product_table = films.join(tags, on="movieId", how="left", maintain_order="left").select(
        pl.col("movieId").cast(pl.String).alias("product_id"),
        title=pl.col("title").str.strip_chars(),
        description=pl.concat_str(
            genres.str.replace_all("|", ", ", literal=True), decade, pl.col("tags"), separator=". ", ignore_nulls=True
        ),
        category=genres.str.split("|").list.first(),
    )
    events = ratings.filter(pl.col("rating") >= GOOD).select(
        pl.col("userId").cast(pl.String).alias("user_id"),
        pl.col("movieId").cast(pl.String).alias("product_id"),
        timestamp=pl.from_epoch("timestamp").cast(pl.Datetime("us", "UTC")),
        type=pl.lit("purchase"),
    )
    return write_import(target, product_table, events)


def _before(until: str | None) -> pl.Expr:
    if until is None:
        return pl.lit(True)
    try:
        time = datetime.fromisoformat(until).replace(tzinfo=None)
    except ValueError as error:
        raise CatalogueError([f"option until: expected a time such as 2015-01-01, got {until!r}"]) from error
    return pl.from_epoch("timestamp") < time
