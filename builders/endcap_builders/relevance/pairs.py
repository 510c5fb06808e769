"""(query, product) pairs in groups, the data format of training, labelling and calibration."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from endcap_builders.step import BuildError


class RelevanceError(BuildError):
    """Training data or a checkpoint is invalid; the message says what was expected, what came, what to do."""


@dataclass(frozen=True)
class Pairs:
    """Pairs sorted by query, so that the products of a query are one contiguous group.

    Attributes:
        queries: distinct query texts, [q].
        query: index into `queries`, int32 [n], ascending.
        product: product row, int32 [n].
        target: relevance in 0..1, float32 [n]; NaN if unknown.
    """

    queries: list[str]
    query: np.ndarray
    product: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.query)

    @property
    def offsets(self) -> np.ndarray:
        """Start of each group and the end of the last: int64 [q + 1]; a group may be empty."""
        return np.searchsorted(self.query, np.arange(len(self.queries) + 1)).astype(np.int64)

    def with_target(self, target: np.ndarray) -> "Pairs":
        """The same pairs with other targets, float [n]."""
        return Pairs(self.queries, self.query, self.product, np.asarray(target, dtype=np.float32))

    def select(self, keep: np.ndarray) -> "Pairs":
        """The pairs with `keep` (bool [n]); queries without pairs are dropped."""
        query, product, target = self.query[keep], self.product[keep], self.target[keep]
        used, renumbered = np.unique(query, return_inverse=True)
        return Pairs([self.queries[index] for index in used], renumbered.astype(np.int32), product, target)

    def select_queries(self, keep: np.ndarray) -> "Pairs":
        """The groups of the queries with `keep` (bool [q])."""
        return self.select(keep[self.query])


def make_pairs(query: Sequence[str], product: np.ndarray, target: np.ndarray) -> Pairs:
    """Group pairs by query text; a pair that occurs several times gets the mean of its known targets.

    Args:
        query: text of each pair, [n]; surrounding and repeated white space does not matter.
        product: product row of each pair, int [n].
        target: relevance in 0..1, float [n], NaN where unknown.
    """
    frame = pl.DataFrame(
        {
            "query": [" ".join(text.split()) for text in query],
            "product": np.asarray(product, dtype=np.int32),
            "target": np.asarray(target, dtype=np.float32),
        }
    )
    frame = (
        frame.with_columns(pl.col("target").fill_nan(None))
        .group_by("query", "product", maintain_order=True)
        .agg(pl.col("target").mean())
        .sort("query", maintain_order=True)
    )
    texts = frame["query"].unique(maintain_order=True).to_list()
    index = frame["query"].rle_id().to_numpy().astype(np.int32)
    values = frame["target"].fill_null(float("nan")).to_numpy().astype(np.float32)
    return Pairs(texts, index, frame["product"].to_numpy(), values)


def pairs_from_frame(
    frame: pl.DataFrame, product_ids: pl.Series, *, source: str, to_relevance: Callable[[np.ndarray, str], np.ndarray]
) -> Pairs:
    """Pairs of a table (`query` or `text`, `product_id`, `relevance`).

    Args:
        frame: the table; rows with an empty query or a product that is not in the catalogue are left out.
        product_ids: the product id of each row of the item store, [products].
        source: name of the table, for error messages.
        to_relevance: (labels float64 [n], source) -> relevance in 0..1, as `LabelScale.apply`.

    Raises:
        RelevanceError: `to_relevance` refuses labels.
    """
    frame = frame.rename({"text": "query"}) if "text" in frame.columns else frame
    relevance = to_relevance(frame["relevance"].cast(pl.Float64).to_numpy().astype(np.float64), source)
    rows = pl.DataFrame({"product_id": product_ids.cast(pl.String), "product": np.arange(len(product_ids))})
    known = (
        frame.select(pl.col("query").cast(pl.String), pl.col("product_id").cast(pl.String))
        .with_columns(pl.Series("target", relevance))
        .join(rows, on="product_id", how="inner")
        .filter(pl.col("query").str.strip_chars() != "")
    )
    return make_pairs(known["query"].to_list(), known["product"].to_numpy(), known["target"].to_numpy())


def no_pairs() -> Pairs:
    """Pairs without any entry."""
    return make_pairs([], np.empty(0, np.int32), np.empty(0, np.float32))


def among(pairs: Pairs, known: Pairs) -> np.ndarray:
    """Which pairs are among the `known` ones: bool [n]."""
    keys = {(known.queries[query], row) for query, row in zip(known.query, known.product.tolist(), strict=True)}
    texts = (pairs.queries[query] for query in pairs.query)
    return np.array([key in keys for key in zip(texts, pairs.product.tolist(), strict=True)], dtype=bool)


def without(pairs: Pairs, known: Pairs) -> Pairs:
    """The pairs that are not among the `known` ones."""
    return pairs.select(~among(pairs, known))


def merge_pairs(parts: Sequence[Pairs]) -> Pairs:
    """All pairs of the parts; a pair in several parts gets the mean of its known targets."""
    return make_pairs(
        [part.queries[index] for part in parts for index in part.query],
        np.concatenate([np.empty(0, np.int32), *(part.product for part in parts)]),
        np.concatenate([np.empty(0, np.float32), *(part.target for part in parts)]),
    )


def held_out(queries: Sequence[str], share: float) -> np.ndarray:
    """Which queries are held out for calibration: bool [q].

    Only the query's text decides, so that teacher and student hold out the same queries.
    """
    digests = (hashlib.blake2s(text.casefold().encode(), digest_size=4).digest() for text in queries)
    return np.array([int.from_bytes(digest, "big") < share * 2**32 for digest in digests], dtype=bool)


def add_random_negatives(pairs: Pairs, products: int, share: float, rng: np.random.Generator) -> Pairs:
    """Add random products to every group as irrelevant (target 0): `share` of the group's size, at least one.

    Judged pairs are usually top results of a search engine, so without negatives a model never sees wrong products.
    """
    if share <= 0 or not len(pairs):
        return pairs
    sizes = np.diff(pairs.offsets)
    counts = np.where(sizes > 0, np.maximum(1, np.rint(sizes * share)), 0).astype(np.int64)
    query = np.repeat(np.arange(len(pairs.queries)), counts)
    product = rng.integers(0, products, len(query))
    known = set(zip(pairs.query.tolist(), pairs.product.tolist(), strict=True))
    new = np.array([key not in known for key in zip(query.tolist(), product.tolist(), strict=True)], dtype=bool)
    query, product = query[new], product[new]
    return make_pairs(
        [pairs.queries[index] for index in np.concatenate([pairs.query, query])],
        np.concatenate([pairs.product, product]),
        np.concatenate([pairs.target, np.zeros(len(query), np.float32)]),
    )
