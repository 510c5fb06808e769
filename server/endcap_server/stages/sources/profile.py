"""A history, counted once for all sources and features."""

from dataclasses import dataclass

import numpy as np

HISTORY_ITEMS = 400
"""Last items of a history that count; older ones would have a weight below 1/100."""
HALF_LIFE_ITEMS = 60.0
"""Number of items after which the weight of an item halves."""


@dataclass(frozen=True)
class Profile:
    """A shopper's history: L items, oldest first, k distinct ones.

    Attributes:
        history: int64 [L].
        weights: float32 [L], by recency, 1 for the newest.
        items: int64 [k], distinct products, ascending.
        count: int64 [k], how often each occurs.
        first: int64 [k], position of its first occurrence, 0 is the oldest item.
        last: int64 [k], position of its last one.
        weight: float32 [k], sum of its weights.
    """

    history: np.ndarray
    weights: np.ndarray
    items: np.ndarray
    count: np.ndarray
    first: np.ndarray
    last: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, history: np.ndarray) -> "Profile":
        """Count the last `HISTORY_ITEMS` of ``history`` (int [h], oldest first)."""
        history = np.asarray(history, np.int64)[-HISTORY_ITEMS:]
        weights = np.exp2(-np.arange(len(history) - 1, -1, -1) / HALF_LIFE_ITEMS).astype(np.float32)
        items, first, member, count = np.unique(history, return_index=True, return_inverse=True, return_counts=True)
        last = np.zeros(len(items), np.int64)
        last[member] = np.arange(len(history))
        weight = np.bincount(member, weights, len(items)).astype(np.float32)
        return cls(history, weights, items, count, first, last, weight)

    def place(self, rows: np.ndarray) -> np.ndarray:
        """Position of each of ``rows`` (int [m]) in ``items``: int64 [m], -1 if it is not there."""
        if not len(self.items):
            return np.full(len(rows), -1, np.int64)
        place = np.minimum(np.searchsorted(self.items, rows), len(self.items) - 1)
        return np.where(self.items[place] == rows, place, -1)
