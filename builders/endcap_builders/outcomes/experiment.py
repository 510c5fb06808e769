"""Compares two arms of an experiment by outcomes per view; shoppers were randomised.

The variance of a rate is that of the delta method (`figures.py`), corrected for few shoppers as the jackknife. CUPED
(Deng, Xu, Kohavi and Walker 2013, "Improving the Sensitivity of Online Controlled Experiments by Utilizing
Pre-Experiment Data") subtracts what the shoppers' earlier behaviour explains: behaviour before the experiment has the
same expectation in both arms, so the difference keeps its expectation and loses variance. A rate is adjusted through
its linearisation: the deviation of each shopper's outcomes from those that the shopper's views would have at the arm's
rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import t as student

from endcap_builders.intervals import CONFIDENCE, Interval
from endcap_builders.outcomes.figures import Z

_MOST_LEVERAGE = 0.9


@dataclass(frozen=True)
class Arm:
    """The shoppers of an arm, n of them.

    Attributes:
        views: float64 [n], at least one each.
        outcomes: float64 [n].
        before: float64 [n, k] behaviour before the experiment.
    """

    views: np.ndarray
    outcomes: np.ndarray
    before: np.ndarray

    @property
    def rate(self) -> float:
        """Outcomes per view."""
        return float(self.outcomes.sum() / self.views.sum())

    @cached_property
    def deviations(self) -> np.ndarray:
        """Linearised rate, float64 [n] with mean 0."""
        found: np.ndarray = (self.outcomes - self.rate * self.views) / self.views.mean()
        return found


@dataclass(frozen=True)
class Comparison:
    """Treatment against control.

    Attributes:
        difference: treatment minus control.
        ratio: treatment over control; None if a rate is not positive.
    """

    difference: Interval
    ratio: Interval | None


def compare(control: Arm, treatment: Arm, adjusted: bool = False) -> Comparison:
    """Difference and ratio of the rates with 95 % intervals.

    Args:
        control: at least two shoppers.
        treatment: at least two shoppers.
        adjusted: reduce the variance by the behaviour before (CUPED).
    """
    arms = (control, treatment)
    before = [arm.before if adjusted else np.empty((len(arm.views), 0)) for arm in arms]
    weights, leverages = _weights(arms, before)
    mean = np.concatenate(before).mean(axis=0)
    rates, variances = [], []
    for arm, behaviour, leverage in zip(arms, before, leverages, strict=True):
        rates.append(arm.rate - float((behaviour.mean(axis=0) - mean) @ weights))
        # As the jackknife: how far the rate moves without a shopper. A shopper with many views, or with unusual
        # behaviour before, pulls the estimate to itself.
        rest = (arm.deviations - (behaviour - behaviour.mean(axis=0)) @ weights) / (1 - leverage)
        variances.append(float(rest @ rest) * (len(rest) - 1) / len(rest) ** 3)
    quantile = _quantile(variances, [len(arm.views) for arm in arms])
    difference, error = rates[1] - rates[0], quantile * float(np.sqrt(sum(variances)))
    return Comparison(
        Interval(difference, difference - error, difference + error),
        _ratio(rates, variances, quantile),
    )


def _weights(arms: Sequence[Arm], before: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Coefficients [k] of the earlier behaviour that leave the least variance, and each shopper's leverage by arm."""
    # An arm's variance is divided by its size, so that a shopper of the smaller arm weighs more.
    rows = np.concatenate([(each - each.mean(axis=0)) / len(each) for each in before])
    targets = np.concatenate([arm.deviations / len(arm.views) for arm in arms])
    weights, _, rank, _ = np.linalg.lstsq(rows, targets, rcond=None)
    directions = np.linalg.svd(rows, full_matrices=False)[0][:, :rank]
    of_behaviour = np.split((directions**2).sum(axis=1), [len(arms[0].views)])
    of_views = [arm.views / arm.views.sum() for arm in arms]
    return weights, [np.minimum(one + two, _MOST_LEVERAGE) for one, two in zip(of_views, of_behaviour, strict=True)]


def _quantile(variances: Sequence[float], counts: Sequence[int]) -> float:
    """Of Student's distribution, with the degrees of freedom of Welch and Satterthwaite."""
    freedom = sum(variance**2 / (count - 1) for variance, count in zip(variances, counts, strict=True))
    return float(student.ppf((1 + CONFIDENCE) / 2, sum(variances) ** 2 / freedom)) if freedom else Z


def _ratio(rates: Sequence[float], variances: Sequence[float], quantile: float) -> Interval | None:
    """Treatment over control; the logarithm of a ratio of means is closer to a normal variable than the ratio."""
    if min(rates) <= 0:
        return None
    value = rates[1] / rates[0]
    error = quantile * np.sqrt(sum(variance / rate**2 for variance, rate in zip(variances, rates, strict=True)))
    return Interval(value, float(value * np.exp(-error)), float(value * np.exp(error)))


def behaviour_before(views: np.ndarray, outcomes: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Columns by which outcomes of an experiment can be predicted, float64 [n, 4].

    Args:
        views: of each shopper before the experiment, float64 [n].
        outcomes: of those views, float64 [n].
        events: all events of this kind before the experiment, float64 [n].
    """
    rate = outcomes.sum() / max(views.sum(), 1.0)
    surplus = outcomes - rate * views
    # The surplus per view of a shopper with few views says little; it is drawn to 0 by as many views as the mean has.
    shrunk = surplus / (views + max(views.mean(), 1.0))
    return np.column_stack([surplus, shrunk, np.log1p(views), np.log1p(events)])
