"""What all sources have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag

import numpy as np


class CandidateSource(IntFlag):
    """Sources that found a candidate; the bits of the tensor CANDIDATE_SOURCE."""

    REPEAT = 1
    TOGETHER = 2
    POPULAR = 4
    CATEGORY = 8
    VECTOR = 16
    WORDS = 32


Filter = Callable[[np.ndarray], np.ndarray]
"""Rows that may be shown, of rows int [k], in their order."""

_AT_ONCE = 4096


def everything(rows: np.ndarray) -> np.ndarray:
    """The filter that lets all products pass."""
    return rows


def first(order: np.ndarray, count: int, allowed: Filter) -> np.ndarray:
    """The first ``count`` of ``order`` (int [n]) that may be shown, or all of these: int32 [at most count]."""
    found: list[np.ndarray] = [np.empty(0, np.int32)]
    missing = count
    for start in range(0, len(order), _AT_ONCE):
        found.append(allowed(order[start : start + _AT_ONCE])[:missing])
        missing -= len(found[-1])
        if missing <= 0:
            break
    return np.concatenate(found).astype(np.int32)


@dataclass(frozen=True)
class Ranked:
    """Products of one source, best first: ``rows`` int32 [k], distinct; ``score`` float32 [k] > 0, descending."""

    rows: np.ndarray
    score: np.ndarray

    @classmethod
    def best(cls, rows: np.ndarray, score: np.ndarray) -> "Ranked":
        """Order ``rows`` (int [k], distinct) by ``score`` (float [k]); rows with score 0 are dropped."""
        some = np.flatnonzero(score > 0)
        order = some[np.argsort(-score[some], kind="stable")]
        return cls(rows[order].astype(np.int32), score[order].astype(np.float32))

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The score of each of ``rows`` (int [m]): float32 [m], 0 where it was not found."""
        if not len(self.rows):
            return np.zeros(len(rows), np.float32)
        order = np.argsort(self.rows, kind="stable")
        place = order[np.minimum(np.searchsorted(self.rows, rows, sorter=order), len(order) - 1)]
        scores: np.ndarray = np.where(self.rows[place] == rows, self.score[place], np.float32(0))
        return scores
