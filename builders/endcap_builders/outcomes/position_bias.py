"""How much the place on a page decides whether a product is looked at, estimated from pages as they were shown.

Position-based model (Craswell et al. 2008): the probability of an outcome is that of the place being looked at, times
the appeal of the product. A place is a placement's position on the page and the rank within it, whose effects are
multiplied. The same product on different places identifies the effects without an experiment (Agarwal et al. 2019,
"Estimating Position Bias without Intrusive Interventions"). Outcomes are rare, so they are taken as Poisson variables;
each step of the iteration then is the maximum likelihood of one factor, given the others.
"""

from dataclasses import dataclass

import numpy as np

_ROUNDS = 200
_CLOSE = 1e-4
_PRIOR = 10.0
"""Outcomes at the attention of the first place that a place is assumed to have had: few data mean little correction."""


@dataclass(frozen=True)
class PositionBias:
    """Attention relative to the first place.

    Attributes:
        positions: float64 [P], by position of the placement on the page.
        ranks: float64 [R], by rank within the placement.
    """

    positions: np.ndarray
    ranks: np.ndarray

    def attention(self, position: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """Of places, float64 [n]; positions and ranks from 1."""
        found: np.ndarray = self.positions[position - 1] * self.ranks[rank - 1]
        return found


def position_bias(unit: np.ndarray, position: np.ndarray, rank: np.ndarray, outcome: np.ndarray) -> PositionBias:
    """Estimate the attention of places.

    Args:
        unit: int64 [n], what was shown, from 0: products of equal appeal, for example one product at one score.
        position: int64 [n], from 1.
        rank: int64 [n], from 1.
        outcome: bool [n].
    """
    counted = outcome.astype(np.float64)
    # What never had an outcome says nothing about places.
    appealing = np.bincount(unit, counted)[unit] > 0
    _, unit = np.unique(unit[appealing], return_inverse=True)
    places = [position - 1, rank - 1]
    effects = [np.ones(int(each.max(initial=0)) + 1) for each in places]
    places, counted = [each[appealing] for each in places], counted[appealing]
    of_unit = np.bincount(unit, counted)
    for _ in range(_ROUNDS):
        looked_at = effects[0][places[0]] * effects[1][places[1]]
        appeal = of_unit / np.bincount(unit, looked_at)
        before = [each.copy() for each in effects]
        for number, place in enumerate(places):
            other = effects[1 - number][places[1 - number]]
            size = len(effects[number])
            expected = np.bincount(place, appeal[unit] * other, size)
            effects[number] = (np.bincount(place, counted, size) + _PRIOR) / (expected + _PRIOR)
            effects[number] /= effects[number][0]
        if max(float(np.abs(old - new).max()) for old, new in zip(before, effects, strict=True)) < _CLOSE:
            break
    return PositionBias(*effects)
