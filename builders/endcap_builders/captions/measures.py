"""AUC, normalised entropy and nDCG of scored examples, with intervals over shoppers and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from endcap_builders.behaviour.log import Array
from endcap_builders.captions.visits import Visits
from endcap_builders.intervals import Interval, interval_of

MEASURES = ("auc", "entropy", "ndcg")
PLACES = 10
_RESAMPLES = 400


@dataclass(frozen=True)
class Draws:
    """Resampled shoppers and seeds.

    Attributes:
        visits: int64 [resamples + 1, v], how often each visit is drawn.
        seeds: int64 [resamples + 1, s], drawn seeds.
    """

    visits: Array
    seeds: Array

    @classmethod
    def of(cls, visits: Visits, seeds: int, seed: int) -> "Draws":
        """Draw shoppers and seeds with replacement; the first draw is everything once. A shopper brings all visits."""
        rng = np.random.default_rng(seed)
        _, shopper = np.unique(visits.shopper, return_inverse=True)
        count = int(shopper.max()) + 1
        times = np.stack([np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(_RESAMPLES)])
        times = np.concatenate([np.ones((1, count), np.int64), times])
        every = np.arange(seeds)
        return cls(times[:, shopper], np.stack([every, *(rng.integers(0, seeds, seeds) for _ in range(_RESAMPLES))]))


def measured(visits: Visits, logits: Sequence[Array], chosen: Array, draws: Draws) -> dict[str, Array]:
    """Each measure on the chosen examples (bool [n]) in each draw: float64 [resamples + 1], the first without drawing.

    Args:
        visits: the examples.
        logits: of each seed, calibrated, float [n].
        chosen: examples that count.
        draws: of shoppers and seeds.
    """
    of_seed = [_of_seed(visits, each, chosen, draws.visits) for each in logits]
    take = np.arange(len(draws.seeds))[:, None]
    return {name: np.stack([each[name] for each in of_seed], 1)[take, draws.seeds].mean(axis=1) for name in MEASURES}


def compared(ours: dict[str, Array], theirs: dict[str, Array]) -> dict[str, Interval]:
    """Ours relative to theirs, minus 1, of each measure."""
    ratio = {name: ours[name] / theirs[name] - 1 for name in MEASURES}
    return {name: interval_of(float(each[0]), each[1:]) for name, each in ratio.items()}


def _of_seed(visits: Visits, logit: Array, chosen: Array, times: Array) -> dict[str, Array]:
    visit, logit = visits.visit[chosen], np.asarray(logit, np.float64)[chosen]
    bought, weight = visits.bought[chosen], visits.weight[chosen].astype(np.float64)
    count, drawn = len(visits.sizes), times.astype(np.float64)
    loss = drawn @ np.bincount(visit, weight * np.logaddexp(0, np.where(bought, -logit, logit)), count)
    positive = drawn @ np.bincount(visit, weight * bought, count)
    negative = drawn @ np.bincount(visit, weight * ~bought, count)
    won = _won(visit, logit, bought, weight, count)
    auc = np.einsum("rv,rv->r", drawn @ won, drawn) / np.maximum(positive * negative, 1e-9)
    rate = np.clip(positive / np.maximum(positive + negative, 1e-9), 1e-9, 1 - 1e-9)
    base = -(positive * np.log(rate) + negative * np.log(1 - rate))
    gain, of_visit = _ndcg(visit, logit, bought, count)
    counted = drawn[:, of_visit]
    ndcg = counted @ gain / np.maximum(counted.sum(axis=1), 1)
    return {"auc": auc, "entropy": loss / np.maximum(base, 1e-9), "ndcg": ndcg}


def _won(visit: Array, logit: Array, bought: Array, weight: Array, count: int) -> Array:
    """Weight of the pairs in which a bought example of one visit is above another example of a second: float64 [v, v].

    With it, the AUC of any draw of visits is a quadratic form. Ties count half.
    """
    order = np.lexsort((logit, visit))
    visit, logit, bought, weight = visit[order], logit[order], bought[order], weight[order]
    wanted, of_wanted, mass = logit[bought], visit[bought], weight[bought]
    won = np.zeros((count, count))
    ends = np.searchsorted(visit, np.arange(count + 1))
    for other in range(count):
        rows = slice(ends[other], ends[other + 1])
        others = ~bought[rows]
        values = logit[rows][others]
        below = np.r_[0, np.cumsum(weight[rows][others])]
        sides = (below[np.searchsorted(values, wanted, side)] for side in ("left", "right"))
        won[:, other] = np.bincount(of_wanted, mass * sum(sides) / 2, count)
    return won


def _ndcg(visit: Array, logit: Array, bought: Array, visits: int) -> tuple[Array, Array]:
    """nDCG of the visits that bought any of these examples, and these visits."""
    order = np.lexsort((-logit, visit))
    group, hit = visit[order], bought[order]
    place = np.arange(len(group)) - np.searchsorted(group, group)
    discount = np.where(place < PLACES, 1 / np.log2(place + 2), 0)
    found = np.bincount(group, discount * hit, visits)
    wanted = np.bincount(group, hit, visits).astype(np.int64)
    ideal = np.r_[0, np.cumsum(1 / np.log2(np.arange(PLACES) + 2))][np.minimum(wanted, PLACES)]
    some = np.flatnonzero(wanted)
    return found[some] / ideal[some], some
