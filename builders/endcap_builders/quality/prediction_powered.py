"""Prediction-powered estimates of a mean: few labels of people, many of a judge that errs.

The judge's mean over everything is corrected by how much it errs where people have labelled, too (Angelopoulos et al.,
arXiv 2301.09633; with the weight of the judge that makes the estimate most certain, arXiv 2311.01453). So the estimate
is right whatever the judge is worth; a good judge makes its interval narrower.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from endcap_builders.intervals import RESAMPLES, interval_of


@dataclass(frozen=True)
class Judged:
    """Cases in groups, judged, and some of them labelled at random.

    Attributes:
        judge: float [n], what the judge expects of each label.
        label: float [n], a person's label; NaN where there is none.
        group: int [n]; cases of a group are not independent.
    """

    judge: np.ndarray
    label: np.ndarray
    group: np.ndarray

    def estimates(self, seed: int = 0) -> dict[str, Any]:
        """The mean label by the judge alone, by people alone, and by both; bootstrap intervals over groups.

        Returns:
            judge, people, both: value, low, high each, the last two only with labels of at least two groups; cases,
            labelled, weight: of the judge in the estimate of both.
        """
        _, place = np.unique(self.group, return_inverse=True)
        known = ~np.isnan(self.label)
        total = int(place.max()) + 1 if len(place) else 0
        rows = np.random.default_rng(seed).integers(0, max(total, 1), (RESAMPLES, max(total, 1)))
        said, asked = _sums(place, self.judge, total), _sums(place, np.ones(len(place)), total)
        found: dict[str, Any] = {"cases": len(place), "labelled": int(known.sum())}
        if not total:
            return found

        def ratio(top: np.ndarray, bottom: np.ndarray) -> tuple[float, np.ndarray]:
            counts = bottom[rows].sum(axis=1)
            drawn = top[rows].sum(axis=1)[counts > 0] / counts[counts > 0]
            return float(top.sum() / bottom.sum()), drawn

        found["judge"] = interval_of(*ratio(said, asked)).document()
        if len(np.unique(place[known])) < 2:
            return found
        labels, both = np.where(known, self.label, 0.0), np.where(known, self.judge, 0.0)
        weight = self._weight(known)
        people, checked = _sums(place, labels, total), _sums(place, known.astype(float), total)
        errors = _sums(place, labels - weight * both, total)
        found["people"] = interval_of(*ratio(people, checked)).document()
        counts = checked[rows].sum(axis=1)
        usable = counts > 0
        drawn = (
            weight * said[rows].sum(axis=1)[usable] / asked[rows].sum(axis=1)[usable]
            + errors[rows].sum(axis=1)[usable] / counts[usable]
        )
        value = weight * said.sum() / asked.sum() + errors.sum() / checked.sum()
        found["both"] = {
            name: min(max(each, 0.0), 1.0) for name, each in interval_of(float(value), drawn).document().items()
        }
        return {**found, "weight": round(weight, 3)}

    def _weight(self, known: np.ndarray) -> float:
        """The weight of the judge with the least variance, 0..1."""
        spread = float(self.judge.var())
        if spread <= 0:
            return 0.0
        together = float(np.cov(self.label[known], self.judge[known])[0, 1])
        return min(max(together / ((1 + float(known.mean())) * spread), 0.0), 1.0)


def _sums(place: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(place, weights=values, minlength=count)
