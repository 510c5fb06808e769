"""Percentiles, bootstrap intervals and the knee."""

import math
from itertools import chain

import numpy as np
import pytest

from benchmarks.measures import RatePoint, knee, median_of, paired_ratio, percentiles, rounds_ratio


def test_percentiles() -> None:
    assert percentiles(list(range(101))) == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "mean": 50.0}
    assert percentiles([]) == {}


def test_median_lies_in_its_interval() -> None:
    values = np.random.default_rng(1).normal(100, 10, 200).tolist()
    found = median_of(values)
    assert found.value == np.median(values)
    assert found.low < found.value < found.high
    assert found.high - found.low < 10


def test_pairs_are_resampled_together() -> None:
    """What slows both sides of a pair leaves their ratio alone: the interval is narrow although the values are wide."""
    slow = np.random.default_rng(2).lognormal(0, 1, 60)
    found = paired_ratio((3 * slow).tolist(), slow.tolist())
    assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3))


def test_pairs_need_both_sides() -> None:
    with pytest.raises(ValueError, match="expected as many numerators as denominators, got 1 and 2"):
        paired_ratio([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="expected values, got none"):
        paired_ratio([], [])


def test_noise_between_rounds_is_no_difference() -> None:
    """Two runs of the same thing, each round of which the machine was slower or faster as a whole."""
    generator = np.random.default_rng(3)
    same = [[(level * generator.normal(100, 1, 30)).tolist() for level in (0.9, 1.0, 1.15)] for _ in range(2)]
    found = rounds_ratio(same[0], same[1])
    assert found.low < 1 < found.high
    pooled = rounds_ratio([[*chain(*same[0])]], [[*chain(*same[1])]])
    assert pooled.high - pooled.low < found.high - found.low


def test_a_difference_is_found() -> None:
    generator = np.random.default_rng(4)
    base = [generator.normal(100, 5, 30).tolist() for _ in range(3)]
    new = [generator.normal(130, 5, 30).tolist() for _ in range(3)]
    found = rounds_ratio(new, base)
    assert found.low > 1.2
    assert found.value == pytest.approx(1.3, abs=0.03)
    with pytest.raises(ValueError, match="expected values in both runs"):
        rounds_ratio([[]], base)


def test_knee_is_the_last_rate_before_the_first_late_one() -> None:
    points = [RatePoint(4, 900, 4), RatePoint(1, 100, 1), RatePoint(2, 300, 2), RatePoint(3, 2000, 2.5)]
    assert knee(points, 1000) == RatePoint(2, 300, 2), "4 a second was within the budget by luck"
    assert knee(points, 3000) == RatePoint(4, 900, 4)
    assert knee(points, 50) is None
    assert knee([RatePoint(1, math.inf, 0)], 1000) is None
