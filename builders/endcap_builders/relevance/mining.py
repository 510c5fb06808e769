"""Mining of unlabelled pairs, which the teacher labels for the student."""

from collections.abc import Sequence
from dataclasses import dataclass

import bm25s
import numpy as np

from endcap_builders.relevance.pairs import Pairs, RelevanceError, make_pairs


@dataclass(frozen=True)
class Shares:
    """Shares of the sources of a query's candidates; the rest is random products.

    Attributes:
        dense: found by the bi-encoder.
        lexical: found by BM25.
        neighbours: found by the bi-encoder for similar queries.
    """

    dense: float
    lexical: float
    neighbours: float = 0.0

    def counts(self, group_size: int) -> tuple[int, int, int]:
        """Numbers of a group's candidates from the bi-encoder, from BM25, and from neighbours.

        Raises:
            RelevanceError: a share below 0, or more than 1 together.
        """
        parts = (self.dense, self.lexical, self.neighbours)
        if min(parts) < 0 or sum(parts) > 1 + 1e-9:
            raise RelevanceError(
                "mining: expected dense, lexical and neighbour shares of at least 0 and at most 1 together, got "
                + ", ".join(f"{part:g}" for part in parts)
            )
        dense = round(group_size * self.dense)
        lexical = min(round(group_size * self.lexical), group_size - dense)
        return dense, lexical, min(round(group_size * self.neighbours), group_size - dense - lexical)


class Lexical:
    """BM25 over the product texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._index = bm25s.BM25(k1=1.2, b=0.75)
        self._index.index(bm25s.tokenize(list(texts), show_progress=False), show_progress=False)
        self._products = len(texts)

    def top(self, queries: Sequence[str], depth: int) -> list[np.ndarray]:
        """Best products with a common word for each query, best first: int64 [at most depth] each."""
        depth = min(depth, self._products)
        tokens = bm25s.tokenize(list(queries), show_progress=False)
        rows, scores = self._index.retrieve(tokens, k=depth, show_progress=False)
        return [row[score > 0].astype(np.int64) for row, score in zip(rows, scores, strict=True)]

    def scores(self, pairs: Pairs) -> np.ndarray:
        """BM25 score of each pair, float32 [n]."""
        found = np.zeros(len(pairs), dtype=np.float32)
        for start, end, text in zip(pairs.offsets[:-1], pairs.offsets[1:], pairs.queries, strict=True):
            words = list(bm25s.tokenize([text], show_progress=False).vocab)
            if words:
                found[start:end] = self._index.get_scores(words)[pairs.product[start:end]]
        return found


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


def neighbours_top(query_vectors: np.ndarray, dense: Sequence[np.ndarray], neighbours: int = 5) -> list[np.ndarray]:
    """Products that the bi-encoder finds for similar queries but not for the query itself.

    Args:
        query_vectors: unit vectors, float [q, D].
        dense: products found for each query, best first.
        neighbours: number of most similar other queries.

    Returns:
        Products of each query, int64, those of the nearest query first, at most as many as `dense` has.
    """
    near = dense_top(query_vectors, query_vectors, neighbours + 1)
    rows: list[np.ndarray] = []
    for index, queries in enumerate(near):
        own, found = set(dense[index].tolist()), dict[int, None]()
        for other in queries.tolist():
            if other != index:
                found.update(dict.fromkeys(row for row in dense[other].tolist() if row not in own))
        rows.append(np.fromiter(found, dtype=np.int64)[: len(dense[index])])
    return rows


def mine(
    queries: Sequence[str],
    sources: Sequence[tuple[Sequence[np.ndarray], int]],
    products: int,
    group_size: int,
    rng: np.random.Generator,
) -> Pairs:
    """Draw `group_size` distinct candidates for each query, unlabelled.

    Half of a source's candidates are its best ones, which serving reranks. The others are drawn from all its results,
    so that the student also sees where relevance ends.

    Args:
        queries: query texts, [q].
        sources: (products found for each query, best first, padded with rows below 0; number to take).
        products: rows of the item store; random ones fill the group.
        group_size: candidates per query; fewer if the catalogue has fewer.
        rng: draws.
    """
    texts: list[str] = []
    rows: list[int] = []
    for index, text in enumerate(queries):
        chosen: dict[int, None] = {}
        for found_of, wanted in sources:
            found = found_of[index][found_of[index] >= 0]
            top = -(-wanted // 2)
            rest = found[top:]
            drawn = rng.choice(rest, min(wanted - top, len(rest)), replace=False) if wanted > top else rest[:0]
            chosen.update(dict.fromkeys(np.concatenate([found[:top], drawn]).tolist()))
        missing = min(products, group_size) - len(chosen)
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
    """Add unjudged near products as irrelevant (target 0), for queries whose near products are mostly judged.

    If people judged most products near a query, the unjudged ones are mostly irrelevant, and models confuse them with
    relevant ones. Queries with few judgements do not change.

    Args:
        pairs: labelled pairs.
        dense: products that the bi-encoder finds for each query of `pairs`, best first; int [depth] each.
        share: products to add for each labelled one.
        coverage: share of the nearest 10 that must be judged.
        rng: source of randomness; draws from all of `dense`.
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
