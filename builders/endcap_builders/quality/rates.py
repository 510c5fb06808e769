"""Rates with intervals, and thresholds that keep a rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from endcap_builders.intervals import CONFIDENCE, Interval, bootstrap, interval_of

FOLDS = 5
_THRESHOLD_RESAMPLES = 300


def wilson(count: int, total: int) -> dict[str, Any]:
    """A share of independent cases with its Wilson interval; only `cases` without any."""
    if not total:
        return {"cases": 0}
    found = binomtest(count, total).proportion_ci(CONFIDENCE, "wilson")
    return {**Interval(count / total, float(found.low), float(found.high)).document(), "cases": total}


def grouped_rate(hit: np.ndarray, group: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """A share of cases that come in groups, with its bootstrap interval over groups.

    Args:
        hit: bool [n].
        group: int [n], the group of each case.
        seed: of the draws.

    Returns:
        value, low, high, cases, groups; only cases without any.
    """
    if not len(hit):
        return {"cases": 0}
    _, place = np.unique(group, return_inverse=True)
    hits = np.bincount(place, weights=hit.astype(float))
    sizes = np.bincount(place)
    found = bootstrap(lambda rows: hits[rows].sum(axis=1) / sizes[rows].sum(axis=1), len(sizes), seed)
    return {**found.document(), "cases": len(hit), "groups": len(sizes)}


@dataclass(frozen=True)
class Graded:
    """Scores of things that people found to fit or not to fit.

    Attributes:
        score: float [n]; higher fits better.
        fits: bool [n].
        group: int [n], the query of each.
    """

    score: np.ndarray
    fits: np.ndarray
    group: np.ndarray

    def at(self, floor: float) -> dict[str, Any]:
        """Rates of the check `score >= floor`."""
        return self._rates(self.score < floor)

    def floor_for(self, most_false_drops: float) -> float:
        """The highest floor that drops at most this share of what fits; -inf if nothing fits."""
        return _floor(self.score[self.fits], np.ones(int(self.fits.sum())), most_false_drops)

    def operating_point(self, most_false_drops: float, seed: int = 0) -> dict[str, Any]:
        """The floor for a share of false drops, and rates that are not those of the data that chose it.

        The queries are split into `FOLDS` parts. Each part is checked with the floor that the others need. So the false
        drops can turn out to be more than was asked for.

        Returns:
            floor: of all data, with its bootstrap interval over queries; false_drops, misfits_found: of the parts.
        """
        groups = np.unique(self.group)
        part = np.random.default_rng(seed).permutation(len(groups)) % FOLDS
        fold = part[np.searchsorted(groups, self.group)]
        dropped = np.zeros(len(self.score), bool)
        for number in range(FOLDS):
            rest = self._of(fold != number)
            dropped |= (fold == number) & (self.score < rest.floor_for(most_false_drops))
        return {"floor": self._floor_interval(most_false_drops, seed), **self._rates(dropped)}

    def curve(self, most: float = 0.5, points: int = 41) -> list[dict[str, float]]:
        """Share of misfits found at shares of false drops from 0 to `most`, each by its floor; for a plot."""
        rows = []
        for share in np.linspace(0, most, points).tolist():
            floor = self.floor_for(share)
            found = float((self.score[~self.fits] < floor).mean()) if (~self.fits).any() else 0.0
            rows.append({"false_drops": round(share, 4), "floor": round(floor, 5), "misfits_found": round(found, 4)})
        return rows

    def _rates(self, dropped: np.ndarray) -> dict[str, Any]:
        return {
            "false_drops": grouped_rate(dropped[self.fits], self.group[self.fits]),
            "misfits_found": grouped_rate(dropped[~self.fits], self.group[~self.fits]),
        }

    def _of(self, keep: np.ndarray) -> "Graded":
        return Graded(self.score[keep], self.fits[keep], self.group[keep])

    def _floor_interval(self, most_false_drops: float, seed: int) -> dict[str, float]:
        fitting = self._of(self.fits)
        if not len(fitting.score):
            return {}
        _, place = np.unique(fitting.group, return_inverse=True)
        count = int(place.max()) + 1
        rng, drawn = np.random.default_rng(seed), []
        for _ in range(_THRESHOLD_RESAMPLES):
            weight = np.bincount(rng.integers(0, count, count), minlength=count)[place]
            drawn.append(_floor(fitting.score, weight, most_false_drops))
        return interval_of(self.floor_for(most_false_drops), np.array(drawn)).document()


def _floor(scores: np.ndarray, weight: np.ndarray, most: float) -> float:
    """The highest score below which at most the share `most` of the weight lies."""
    if not weight.sum():
        return float("-inf")
    order = np.argsort(scores, kind="stable")
    ordered, heavy = scores[order], weight[order]
    below = np.concatenate([[0.0], np.cumsum(heavy)[:-1]]) / heavy.sum()
    # Of equal scores, the first has the least weight below it.
    first = np.searchsorted(ordered, ordered, side="left")
    return float(ordered[below[first] <= most + 1e-12][-1])


def named_counts(reasons: Sequence[str]) -> dict[str, int]:
    """How often each reason occurs, the most frequent first."""
    names, counts = np.unique(np.array(reasons, dtype=object).astype(str), return_counts=True)
    return {str(names[place]): int(counts[place]) for place in np.argsort(-counts, kind="stable")}
