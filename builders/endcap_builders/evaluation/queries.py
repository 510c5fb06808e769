"""Queries of an evaluation, with human judgements of their products."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from endcap_builders.relevance.augmentation import plain
from endcap_builders.relevance.labels import LabelScale
from endcap_builders.relevance.pairs import Pairs, pairs_from_frame
from endcap_builders.step import BuildError


class EvaluationError(BuildError):
    """An evaluation is not possible; the message says what was expected, what came, what to do."""


@dataclass(frozen=True)
class Judged:
    """Judged queries.

    Attributes:
        pairs: the judged pairs; `target` is their relevance in 0..1.
        grades: their human labels, float64 [n], averaged if a pair was judged several times.
        source: description of where they are from.
        left_out: number of queries that were dropped because training can have seen them.
        lowest: the lowest label of the whole set, with exponential gain 0.
    """

    pairs: Pairs
    grades: np.ndarray
    source: str
    left_out: int = 0
    lowest: float = 0.0

    def sample(self, count: int, seed: int) -> "Judged":
        """At most `count` random queries."""
        total = len(self.pairs.queries)
        if not count or count >= total:
            return self
        keep = np.zeros(total, dtype=bool)
        keep[np.random.default_rng(seed).choice(total, count, replace=False)] = True
        chosen = keep[self.pairs.query]
        return replace(self, pairs=self.pairs.select(chosen), grades=self.grades[chosen])


def read_judged(
    queries: Path, labels: Path, split: str, product_ids: pl.Series, scale: LabelScale, seen: Collection[str]
) -> Judged:
    """Judged queries from files.

    Args:
        queries: Parquet file (query_id, query, optionally split), or a folder with queries.parquet.
        labels: Parquet file (query_id, product_id, relevance), or a folder with labels.parquet.
        split: value of the column split to take; without the column all queries are taken.
        product_ids: product id of each row of the item store.
        scale: relevance of labels.
        seen: queries that training can see; they are dropped, in any case and white space.

    Raises:
        EvaluationError: a file or column is missing, or nothing is left.
        RelevanceError: labels outside the scale.
    """
    asked = _read(queries, "queries.parquet", ("query_id", "query"))
    if "split" in asked.columns:
        asked = asked.filter(pl.col("split") == split)
    graded = _read(labels, "labels.parquet", ("query_id", "product_id", "relevance"))
    # Take the scale from the whole file: a few queries can lack its lowest or highest label.
    graded = graded.with_columns(pl.Series("target", scale.apply(_numbers(graded["relevance"]), str(labels))))
    known = {plain(text) for text in seen}
    unseen = asked.filter(~pl.col("query").map_elements(lambda text: plain(text) in known, return_dtype=pl.Boolean))
    joined = unseen.select("query_id", "query").join(graded, on="query_id")
    targets = _numbers(joined["target"])
    pairs = pairs_from_frame(joined, product_ids, source=str(labels), to_relevance=lambda found, source: targets)
    if not len(pairs):
        raise EvaluationError(
            f"{queries}: expected judged queries (split {split!r}) that training has not seen, got none of "
            f"{asked.height}; check --split and --labels, and that the catalogue is the one of these products"
        )
    same = pairs_from_frame(joined, product_ids, source=str(labels), to_relevance=lambda found, source: found)
    return Judged(
        pairs,
        same.target.astype(np.float64),
        f"{queries}, split {split}",
        asked.height - unseen.height,
        float(np.nanmin(_numbers(graded["relevance"]))),
    )


def _numbers(column: pl.Series) -> np.ndarray:
    return column.cast(pl.Float64).to_numpy().astype(np.float64)


def _read(path: Path, name: str, columns: tuple[str, ...]) -> pl.DataFrame:
    file = path / name if path.is_dir() else path
    try:
        frame = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise EvaluationError(f"{file}: expected a Parquet file, got {str(error).splitlines()[0][:200]}") from error
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise EvaluationError(f"{file}, column {missing[0]}: expected, got columns {', '.join(frame.columns)}")
    return frame
