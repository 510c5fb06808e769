"""Rates with intervals, and floors that keep a share of false drops."""

import numpy as np
import pytest
from endcap_builders.quality.rates import Graded, grouped_rate, named_counts, wilson


def graded(queries: int, distance: float, seed: int = 0) -> Graded:
    """Ten products a query; scores of those that fit are higher by `distance` standard deviations."""
    rng = np.random.default_rng(seed)
    fits = rng.random(queries * 10) < 0.6
    return Graded(rng.normal(size=queries * 10) + distance * fits, fits, np.repeat(np.arange(queries), 10))


def test_wilson_never_leaves_the_unit_interval() -> None:
    # Wilson (1927): 0 of 10 is [0, 0.278].
    assert wilson(0, 10) == {"value": 0.0, "low": 0.0, "high": 0.2775, "cases": 10}
    assert wilson(10, 10)["low"] == 0.7225
    assert wilson(0, 0) == {"cases": 0}


def test_cases_of_a_group_are_not_independent() -> None:
    hit = np.repeat([True, False] * 10, 50)
    group = np.repeat(np.arange(20), 50)
    together, apart = grouped_rate(hit, group), grouped_rate(hit, np.arange(1000))
    assert together["value"] == apart["value"] == 0.5
    assert together["high"] - together["low"] > 4 * (apart["high"] - apart["low"])
    assert (together["cases"], together["groups"]) == (1000, 20)
    assert grouped_rate(hit[:0], group[:0]) == {"cases": 0}


def test_the_highest_floor_that_keeps_the_share() -> None:
    fits = np.array([True] * 10 + [False] * 2)
    score = np.array([0, 1, 1, 2, 3, 4, 5, 6, 7, 8, -1, 0.5], float)
    found = Graded(score, fits, np.arange(12))
    assert found.floor_for(0.1) == 1.0, "one of ten lies below"
    assert found.floor_for(0.2) == 1.0, "the ties at 1 are dropped together"
    assert found.floor_for(0.3) == 2.0
    assert found.floor_for(0.0) == 0.0
    rates = found.at(1.0)
    assert rates["false_drops"]["value"] == 0.1
    assert rates["misfits_found"]["value"] == 1.0
    assert Graded(score[10:], fits[10:], np.arange(2)).floor_for(0.1) == float("-inf")


def test_an_operating_point_is_measured_on_other_queries() -> None:
    point = graded(300, distance=2.5).operating_point(0.1)
    assert point["false_drops"]["value"] == pytest.approx(0.1, abs=0.02)
    # Normal scores 2.5 apart: P(z < 2.5 - 1.2816) = 0.888.
    assert point["misfits_found"]["value"] == pytest.approx(0.888, abs=0.03)
    assert point["floor"]["low"] < point["floor"]["value"] < point["floor"]["high"]
    assert point == graded(300, distance=2.5).operating_point(0.1)


def test_it_can_fail() -> None:
    chance = graded(300, distance=0.0).operating_point(0.1)
    assert chance["misfits_found"]["high"] < 0.2
    # A query of its own scale: what the others say of the floor does not hold for it.
    shifted = graded(10, distance=1.0)
    shifted.score[shifted.group == 0] -= 10
    assert shifted.operating_point(0.05)["false_drops"]["value"] > 0.05


def test_reasons_are_counted() -> None:
    assert named_counts(["b", "a", "b"]) == {"b": 2, "a": 1}
    assert named_counts([]) == {}
