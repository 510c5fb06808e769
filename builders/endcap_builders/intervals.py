"""Bootstrap intervals of estimates over queries or requests."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval (95 %)."""

    value: float
    low: float
    high: float

    def document(self) -> dict[str, float]:
        """The interval as JSON."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def bootstrap(statistic: Callable[[np.ndarray], np.ndarray], count: int, seed: int) -> Interval:
    """Bootstrap a statistic of `count` values.

    Args:
        statistic: maps rows int [resamples, count] to values [resamples].
        count: how many rows there are to draw from.
        seed: of the draws.

    Raises:
        ValueError: There are no values.
    """
    if not count:
        raise ValueError("bootstrap: expected values, got none")
    rows = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    return interval_of(float(statistic(np.arange(count)[None])[0]), statistic(rows))


def interval_of(value: float, drawn: np.ndarray) -> Interval:
    """The interval of an estimate whose resampled values are given, float [resamples]."""
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))
