"""Candidate products: query vectors from a history, merging of result lists, popular products."""

from dataclasses import dataclass

import numpy as np

from endcap_server.shop.store import ItemStore
from endcap_server.stages.allowed import Allowed
from endcap_server.stages.nearest_client import Words
from endcap_server.stages.sources import CandidateSource

_ATTENTION = 8.0
"""Sharpness of the softmax that weighs a history by similarity to a session search."""

_UNTAGGED = 1 << 31


@dataclass(frozen=True)
class Candidates:
    """Candidate products, best first; arrays of one length.

    Attributes:
        rows: int32 [C].
        similarity: float32 [C], cosine to the query vectors, 0 if the vector search did not find it.
        sources: uint8 [C], bits of :class:`CandidateSource`.
    """

    rows: np.ndarray
    similarity: np.ndarray
    sources: np.ndarray

    def taken(self, order: np.ndarray) -> "Candidates":
        """The candidates at the positions ``order``, int [k]."""
        return Candidates(self.rows[order], self.similarity[order], self.sources[order])


@dataclass(frozen=True)
class Found:
    """Candidate products of a search, best first; arrays of one length.

    Attributes:
        rows: int32 [C].
        similarity: float32 [C], cosine of the query and the product.
        lexical: float32 [C], 0..1, match of the words relative to the best one; 0 without a match.
        named: bool [C]; the query names the product. Named products come first.
    """

    rows: np.ndarray
    similarity: np.ndarray
    lexical: np.ndarray
    named: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, similarity: np.ndarray) -> "Found":
        """Candidates without a lexical score."""
        return cls(rows, similarity, np.zeros(len(rows), np.float32), np.zeros(len(rows), np.bool_))

    @property
    def sources(self) -> np.ndarray:
        """Bits of :class:`CandidateSource` of each: uint8 [C]. All have a cosine."""
        bits: np.ndarray = np.where(
            self.lexical > 0, CandidateSource.WORDS | CandidateSource.VECTOR, CandidateSource.VECTOR
        ).astype(np.uint8)
        return bits


def fuse(vectors: np.ndarray, query: np.ndarray, near: np.ndarray, words: Words, weight: float, count: int) -> Found:
    """Merge the results of vectors and words, ordered by a weighted sum of both scores.

    Args:
        vectors: Of all products, float [n, D] of unit length.
        query: Vector of the query, float32 [D] of unit length.
        near: Rows of the nearest products, int [k], -1 padded.
        words: Results of the lexical search.
        weight: Weight of the words, 0..1; the vectors have the rest.
        count: Most candidates.
    """
    rows = np.union1d(near[near >= 0], words.rows)
    similarity = vectors[rows].astype(np.float32) @ query
    lexical, named = np.zeros(len(rows), np.float32), np.zeros(len(rows), np.bool_)
    place = np.searchsorted(rows, words.rows)
    lexical[place], named[place] = words.score, words.exact
    score = (1 - weight) * similarity + weight * lexical
    order = np.lexsort((-score, ~named))[:count]
    return Found(rows[order].astype(np.int32), similarity[order], lexical[order], named[order])


def recency(count: int, half_life: float) -> np.ndarray:
    """Weights of a history, oldest first: float32 [count], 1 for the newest."""
    return (0.5 ** (np.arange(count)[::-1] / half_life)).astype(np.float32)


def interests(store: ItemStore, history: np.ndarray, half_life: float, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The recent interests of a history (int32 [H], oldest first): its categories, weighted by recency.

    Returns:
        Query vectors float32 [T <= limit, D] of unit length, and their weights float [T], the greatest 1.
    """
    if not len(history):
        return np.empty((0, store.dimension), np.float32), np.empty(0)
    weights = recency(len(history), half_life)
    category = store.category[history].astype(np.int64)
    # Without categories, every product is its own interest.
    own = np.where(category >= 0, category, history.astype(np.int64) + _UNTAGGED)
    groups, member = np.unique(own, return_inverse=True)
    totals = np.bincount(member, weights)
    best = np.argsort(-totals, kind="stable")[:limit]
    sums = np.zeros((len(groups), store.dimension), np.float32)
    np.add.at(sums, member, weights[:, None] * store.vectors[history].astype(np.float32))
    return _unit(sums[best]), totals[best] / totals[best].max()


def blend_with_history(
    store: ItemStore, vectors: np.ndarray, history: np.ndarray, half_life: float, blend: float
) -> np.ndarray:
    """Move session vectors float32 [T, D] towards similar products of the history; float32 [T, D] of unit length."""
    if not len(history) or not blend:
        return vectors
    items = store.vectors[history].astype(np.float32)
    attention = np.exp(_ATTENTION * (vectors @ items.T)) * recency(len(history), half_life)
    attention /= attention.sum(axis=1, keepdims=True)
    return _unit(vectors + blend * (attention @ items))


def merge(
    allowed: Allowed,
    rows: np.ndarray,
    similarity: np.ndarray,
    weights: np.ndarray,
    count: int,
) -> Candidates:
    """Interleave result lists by weight, without repetitions and products that must not be shown.

    Args:
        allowed: Products that may be shown.
        rows: int32 [T, K], best first, -1 padded.
        similarity: float32 [T, K]; for a product in several lists, the largest counts.
        weights: float [T] > 0; a list of weight 2 gives two products where one of weight 1 gives one.
        count: Most candidates.
    """
    order = np.argsort((np.arange(1, rows.shape[1] + 1)[None, :] / weights[:, None]).reshape(-1), kind="stable")
    flat, similarities = rows.reshape(-1)[order], similarity.reshape(-1)[order]
    found = flat >= 0
    flat, similarities = flat[found], similarities[found]
    unique, first, member = np.unique(flat, return_index=True, return_inverse=True)
    best = np.full(len(unique), -np.inf, np.float32)
    np.maximum.at(best, member, similarities)
    by_place = np.argsort(first)
    flat, similarities = unique[by_place], best[by_place]
    shown = allowed.each[flat]
    rows, similarity = flat[shown][:count].astype(np.int32), similarities[shown][:count].astype(np.float32)
    return Candidates(rows, similarity, np.full(len(rows), CandidateSource.VECTOR, np.uint8))


def popular_rows(store: ItemStore) -> np.ndarray:
    """All products: the most popular of each category, then the second of each, ...: int32 [n]."""
    order = np.argsort(-store.popularity, kind="stable")
    if not len(order):
        return np.empty(0, np.int32)
    category = store.category[order]
    # Rank within the category first, then popularity of the category.
    by_category = np.argsort(category, kind="stable")
    starts = np.concatenate([[0], np.flatnonzero(np.diff(category[by_category])) + 1])
    lengths = np.diff(np.concatenate([starts, [len(by_category)]]))
    place = np.empty(len(order), np.int64)
    place[by_category] = np.arange(len(by_category)) - np.repeat(starts, lengths)
    return order[np.lexsort((np.arange(len(order)), place))].astype(np.int32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Scale float [T, D] to unit length."""
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)).astype(np.float32)
