"""Candidates nobody has judged: the unlabelled pairs that the teacher labels for the student."""

from collections.abc import Sequence
from dataclasses import dataclass

import bm25s
import numpy as np

from endcap_builders.relevance.pairs import Pairs, RelevanceError, make_pairs


@dataclass(frozen=True)
class Shares:
    """Where a query's candidates come from; the rest of 1 is random products."""

    dense: float
    lexical: float

    def counts(self, group_size: int) -> tuple[int, int, int]:
        """How many of a group of `group_size` come from the bi-encoder, from BM25, and at random."""
        if self.dense < 0 or self.lexical < 0 or self.dense + self.lexical > 1 + 1e-9:
            raise RelevanceError(
                f"mining: expected dense and lexical shares of at most 1 together, got {self.dense} and {self.lexical}"
            )
        dense, lexical = round(group_size * self.dense), round(group_size * self.lexical)
        return dense, min(lexical, group_size - dense), max(0, group_size - dense - lexical)


class Lexical:
    """BM25 over the product texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._index = bm25s.BM25(k1=1.2, b=0.75)
        self._index.index(bm25s.tokenize(list(texts), show_progress=False), show_progress=False)
        self._products = len(texts)

    def top(self, queries: Sequence[str], depth: int) -> list[np.ndarray]:
        """Best products of each query that share a word with it, best first: int64 [at most depth] each."""
        depth = min(depth, self._products)
        tokens = bm25s.tokenize(list(queries), show_progress=False)
        rows, scores = self._index.retrieve(tokens, k=depth, show_progress=False)
        return [row[score > 0].astype(np.int64) for row, score in zip(rows, scores, strict=True)]


def dense_top(query_vectors: np.ndarray, product_vectors: np.ndarray, depth: int) -> list[np.ndarray]:
    """Products nearest to each query: unit vectors float [q, D] and [n, D] -> int64 [depth] each, nearest first."""
    depth = min(depth, len(product_vectors))
    products = np.asarray(product_vectors, dtype=np.float32)
    rows: list[np.ndarray] = []
    for start in range(0, len(query_vectors), 256):
        scores = np.asarray(query_vectors[start : start + 256], dtype=np.float32) @ products.T
        nearest = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
        order = np.argsort(-np.take_along_axis(scores, nearest, axis=1), axis=1, kind="stable")
        rows.extend(np.take_along_axis(nearest, order, axis=1))
    return rows


def mine(
    queries: Sequence[str],
    dense: Sequence[np.ndarray],
    lexical: Sequence[np.ndarray],
    products: int,
    shares: Shares,
    group_size: int,
    rng: np.random.Generator,
) -> Pairs:
    """Draw `group_size` distinct candidates for each query, unlabelled.

    Half of what a retriever contributes is its very top, the rest is drawn from all it found: the top is what serving
    reranks, the depth below shows where relevance ends.

    Args:
        queries: query texts, [q].
        dense: products the bi-encoder finds for each query, best first; rows below 0 are padding.
        lexical: products BM25 finds for each query, best first.
        products: rows of the item store, from which random ones are drawn.
        shares: how a group is made up.
        group_size: candidates per query; fewer if the catalogue has fewer.
        rng: draws.
    """
    wanted_dense, wanted_lexical, wanted_random = shares.counts(group_size)
    texts: list[str] = []
    rows: list[int] = []
    for text, near, lexical_rows in zip(queries, dense, lexical, strict=True):
        chosen: dict[int, None] = {}
        for found, wanted in ((near[near >= 0], wanted_dense), (lexical_rows, wanted_lexical)):
            top = -(-wanted // 2)
            rest = found[top:]
            drawn = rng.choice(rest, min(wanted - top, len(rest)), replace=False) if wanted > top else rest[:0]
            chosen.update(dict.fromkeys(np.concatenate([found[:top], drawn]).tolist()))
        missing = min(products, max(group_size, wanted_random)) - len(chosen)
        for row in rng.integers(0, products, 4 * max(missing, 0)).tolist():
            if len(chosen) >= group_size:
                break
            chosen.setdefault(row)
        texts.extend([text] * len(chosen))
        rows.extend(chosen)
    return make_pairs(texts, np.array(rows, dtype=np.int32), np.full(len(rows), np.nan, dtype=np.float32))


def add_passed_over(
    pairs: Pairs, dense: Sequence[np.ndarray], share: float, coverage: float, rng: np.random.Generator
) -> Pairs:
    """Add near products that nobody judged as irrelevant (target 0), for queries whose near products are mostly judged.

    Where people judged most of what is near a query, what they passed over is mostly not relevant, and is what a model
    mistakes for relevant. Queries with few judgements say nothing of the kind and stay as they are.

    Args:
        pairs: labelled pairs.
        dense: products the bi-encoder finds for each query of `pairs`, best first; int [depth] each.
        share: products to add for each labelled one.
        coverage: share of the nearest 10 that must be judged.
        rng: draws among all of `dense`.
    """
    texts, rows = [pairs.queries[index] for index in pairs.query], [pairs.product]
    offsets = pairs.offsets
    for index, near in enumerate(dense):
        judged = pairs.product[offsets[index] : offsets[index + 1]]
        if len(judged) and np.isin(near[:10], judged).mean() >= coverage:
            passed = np.setdiff1d(near, judged)
            drawn = rng.choice(passed, min(len(passed), round(share * len(judged))), replace=False)
            texts.extend([pairs.queries[index]] * len(drawn))
            rows.append(drawn)
    products = np.concatenate(rows)
    zeros = np.zeros(len(products) - len(pairs), dtype=np.float32)
    return make_pairs(texts, products, np.concatenate([pairs.target, zeros]))
