"""Filling a placement with scored products: blending, diversity, brand caps, pins.

Plain functions over NumPy arrays, without tensors, engines or parameters files; ``fusion`` calls them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIGNALS = (
    "margin", "relevance", "similarity", "lexical", "ranker", "popularity", "retrieval", "rule", "diversity", "pinned"
)  # fmt: skip
"""Components of a score, in the order of the last axis of SIGNALS.

The first ``BLENDED`` are 0..1 (NaN unknown, which callers get as 0) and are blended by weight; ``rule`` is the factor
of boost and bury, ``diversity`` the deduction for similarity to products above, ``pinned`` 1 for products that a rule
pinned.
"""

BLENDED = len(SIGNALS) - 3
MEASURED = SIGNALS[:4]
"""Signals that rerank computes: the last axis of its output MEASURED."""


@dataclass(frozen=True)
class Pool:
    """The products of one placement that may be shown, in retrieval's order.

    ``rows`` int32 [m]; ``signals`` float32 [m, len(SIGNALS)]; ``score`` float32 [m] >= 0, blended, times the rules'
    factors; ``fit`` bool [m], whether the product fits the theme; ``vectors`` float32 [m, D] of unit length; ``brand``
    int32 [m].
    """

    rows: np.ndarray
    signals: np.ndarray
    score: np.ndarray
    fit: np.ndarray
    vectors: np.ndarray
    brand: np.ndarray

    def take(self, keep: np.ndarray) -> "Pool":
        """The products at ``keep`` (bool [m] or positions)."""
        return Pool(
            self.rows[keep],
            self.signals[keep],
            self.score[keep],
            self.fit[keep],
            self.vectors[keep],
            self.brand[keep],
        )


@dataclass(frozen=True)
class Shelf:
    """One filled placement: ``rows`` int32 [k], ``score`` float32 [k] descending, ``signals`` float32 [k, S]."""

    rows: np.ndarray
    score: np.ndarray
    signals: np.ndarray


def blend(signals: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of the known signals of each product: float32 [m].

    The weights of unknown signals are distributed over the known ones, with one exception: without the cross-encoder,
    its weights (margin and relevance) go to retrieval's order, the fallback of the page.

    Args:
        signals: float32 [m, >= BLENDED], columns as SIGNALS; NaN unknown.
        weights: float [BLENDED], not negative.
    """
    values = signals[:, :BLENDED]
    known = ~np.isnan(values)
    each = np.where(known, weights[None, :], 0.0)
    margin, relevance, retrieval = (SIGNALS.index(name) for name in ("margin", "relevance", "retrieval"))
    without = ~known[:, margin] & ~known[:, relevance] & known[:, retrieval]
    each[without, retrieval] += weights[margin] + weights[relevance]
    total = np.maximum(each.sum(axis=1), 1e-9)
    mean: np.ndarray = (each * np.where(known, values, 0.0)).sum(axis=1) / total
    return mean.astype(np.float32)


def diversify(
    pool: Pool, count: int, weight: float, threshold: float, cap: int | None, taken_brands: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Choose products by maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) under a brand cap.

    The deduction of a product is at most ``weight``, proportional to the excess of its largest cosine to a product
    above over ``threshold``. Deductions only grow while others are chosen, so scores are descending.

    Returns:
        Positions in ``pool`` int64 [k <= count] and the deductions, float32 [k].
    """
    size = len(pool.rows)
    current = pool.score.astype(np.float32).copy()
    lost = np.zeros(size, np.float32)
    used: dict[int, int] = {}
    for brand in taken_brands:
        used[brand] = used.get(brand, 0) + 1
        if cap is not None and brand >= 0 and used[brand] >= cap:
            current[pool.brand == brand] = -np.inf
    penalties = None
    if weight > 0 and size:
        cosine = pool.vectors @ pool.vectors.T
        penalties = (weight / max(1 - threshold, 1e-6)) * np.clip(cosine - threshold, 0.0, None)
    chosen = np.empty(min(count, size), np.int64)
    for place in range(len(chosen)):
        best = int(np.argmax(current))
        if current[best] == -np.inf:
            return chosen[:place], lost[chosen[:place]]
        chosen[place] = best
        current[best] = -np.inf
        if penalties is not None:
            more = np.maximum(penalties[best] - lost, 0.0)
            more[chosen[: place + 1]] = 0.0
            lost += more
            current -= more
        brand = int(pool.brand[best])
        used[brand] = used.get(brand, 0) + 1
        if cap is not None and brand >= 0 and used[brand] >= cap:
            current[pool.brand == brand] = -np.inf
    return chosen, lost[chosen]


def fill(pins: Pool, pool: Pool, count: int, weight: float, threshold: float, cap: int | None) -> Shelf:
    """Fill a placement: pins first, in their order, then the best of the pool. Pins count towards the cap."""
    pins = pins.take(np.arange(min(count, len(pins.rows))))
    chosen, lost = diversify(pool, count - len(pins.rows), weight, threshold, cap, pins.brand.tolist())
    picked = pool.take(chosen)
    picked.signals[:, SIGNALS.index("diversity")] = lost
    # Rounding must not reverse the order.
    score = np.minimum.accumulate(picked.score - lost) if len(chosen) else picked.score
    # A pin has at least the score of the products below, whatever its own score.
    pinned = np.concatenate([pins.score, score[:1]]) if len(score) else pins.score
    pinned = np.maximum.accumulate(pinned[::-1])[::-1][: len(pins.rows)]
    return Shelf(
        np.concatenate([pins.rows, picked.rows]),
        np.concatenate([pinned, score]).astype(np.float32),
        np.concatenate([pins.signals, picked.signals]),
    )
