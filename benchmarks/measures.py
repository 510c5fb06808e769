"""The arithmetic of the benchmark: percentiles, bootstrap intervals, and the knee of a latency curve."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from endcap_builders.intervals import RESAMPLES, Interval, bootstrap, interval_of


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and mean; an empty mapping without values."""
    if not len(values):
        return {}
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    named = {"p50": p50, "p95": p95, "p99": p99, "mean": np.mean(values)}
    return {name: round(float(value), 3) for name, value in named.items()}


def median_of(values: Sequence[float], seed: int = 0) -> Interval:
    """The median with its interval.

    Raises:
        ValueError: There are no values.
    """
    return bootstrap(lambda rows: np.median(np.asarray(values)[rows], axis=1), len(values), seed)


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float], seed: int = 0) -> Interval:
    """Ratio of the medians of two sides that alternated on the same requests: pairs are resampled together.

    Raises:
        ValueError: The sides have different numbers of values, or none.
    """
    if len(numerators) != len(denominators):
        raise ValueError(f"pairs: expected as many numerators as denominators, got {len(numerators)} and "
                         f"{len(denominators)}")  # fmt: skip
    above, below = np.asarray(numerators), np.asarray(denominators)
    return bootstrap(lambda rows: np.median(above[rows], axis=1) / np.median(below[rows], axis=1), len(above), seed)


def rounds_ratio(new: Sequence[Sequence[float]], base: Sequence[Sequence[float]], seed: int = 0) -> Interval:
    """Ratio of the medians of two runs, each a list of rounds of values.

    Rounds are resampled before their values (a cluster bootstrap). Other load on the machine makes the values of a
    round similar; if only values were resampled, this noise would look like a difference.

    Raises:
        ValueError: A run has no values.
    """
    generator = np.random.default_rng(seed)
    sides = [[np.asarray(each, float) for each in rounds if len(each)] for rounds in (new, base)]
    if not all(sides):
        raise ValueError("rounds: expected values in both runs, got none in one of them")
    drawn = np.array([[_median_of_rounds(rounds, generator) for rounds in sides] for _ in range(RESAMPLES)])
    value = float(np.median(np.concatenate(sides[0])) / np.median(np.concatenate(sides[1])))
    return interval_of(value, drawn[:, 0] / drawn[:, 1])


def _median_of_rounds(rounds: Sequence[np.ndarray], generator: np.random.Generator) -> float:
    picked = generator.integers(0, len(rounds), len(rounds))
    values = [rounds[index][generator.integers(0, len(rounds[index]), len(rounds[index]))] for index in picked]
    return float(np.median(np.concatenate(values)))


@dataclass(frozen=True)
class RatePoint:
    """One arrival rate of an open-loop run."""

    rate: float
    """Offered requests per second."""
    p99_ms: float
    """Latency from the intended start; infinite for requests without an answer."""
    goodput: float
    """Answers within the budget, per second."""


def knee(points: Sequence[RatePoint], budget_ms: float) -> RatePoint | None:
    """The highest rate at which p99 is within the budget, as at all lower rates; None if there is no such rate.

    A rate above one that misses the budget does not count, because it may be within the budget by chance.
    """
    best = None
    for point in sorted(points, key=lambda each: each.rate):
        if not point.p99_ms <= budget_ms:
            break
        best = point
    return best
