"""The first cut of a search: the cross-encoder reads only the products that come first without it.

Reading a pair takes most of a search's time. ``rerank`` chooses what is read; ``fusion`` puts what was not read below.
"""

import numpy as np

from endcap_server.stages.page import SIGNALS, blend

_BELOW = 0.999
"""Score of the best product that was not read, relative to the lowest that was."""


def chosen(factors: np.ndarray, count: int) -> np.ndarray:
    """Which products of a search the cross-encoder reads: bool [m].

    Args:
        factors: float [m], of boost and bury, in retrieval's order. A product at place p with factor f is chosen like
            one at place p / f, so that what a rule lifts is read.
        count: How many; 0: all.
    """
    read = np.ones(len(factors), np.bool_)
    if 0 < count < len(factors):
        place = np.arange(1, len(factors) + 1) / np.maximum(factors, 1e-6)
        read[np.argsort(place, kind="stable")[count:]] = False
    return read


def unread(signals: np.ndarray) -> np.ndarray:
    """Products that the cross-encoder did not read, although it read others: bool [m], of signals [m, >= BLENDED]."""
    missing: np.ndarray = np.isnan(signals[:, [SIGNALS.index("margin"), SIGNALS.index("relevance")]]).all(axis=1)
    return missing & ~missing.all()


def below(score: np.ndarray, signals: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Scores in which products that were not read are below all that were, in the order of their known signals.

    Args:
        score: float32 [m] >= 0, blended; only those of products that were read are used.
        signals: float32 [m, >= BLENDED], columns as SIGNALS; NaN unknown.
        weights: float [BLENDED], of the signals in the order of what was not read.

    Returns:
        float32 [m] >= 0.
    """
    later = unread(signals)
    if not later.any():
        return score
    estimate = blend(signals[later], weights)
    scaled = score.copy()
    scaled[later] = _BELOW * score[~later].min() * estimate / max(float(estimate.max()), 1e-9)
    return scaled
