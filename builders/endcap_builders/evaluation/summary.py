"""Figures per query, turned into estimates with intervals over queries, and paired differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from endcap_builders.intervals import bootstrap

Figures = Mapping[str, np.ndarray]
"""Figures of one run of a system: float64 [q] by name, NaN where a query has none."""


Runs = Mapping[int | None, Figures]
"""Figures of a system by seed; the key None is for a system without seeds."""


def mean_of(runs: Runs, seeds: Sequence[int | None]) -> dict[str, np.ndarray]:
    """Each query's mean over the given repetitions of a system."""
    chosen = [runs[seed] for seed in seeds]
    names = dict.fromkeys(name for run in chosen for name in run)
    return {name: np.mean([run[name] for run in chosen if name in run], axis=0) for name in names}


def estimate(values: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Mean over the queries with a value, with its interval."""
    known = values[~np.isnan(values)]
    if not len(known):
        return {"queries": 0}
    interval = bootstrap(lambda rows: known[rows].mean(axis=1), len(known), seed)
    return {**interval.document(), "queries": len(known)}


def difference(values: np.ndarray, other: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Mean of `values - other` query by query, with its interval."""
    return estimate(values - other, seed)


def summarise(systems: Mapping[str, Runs], against: Sequence[str]) -> dict[str, Any]:
    """Estimates of every system, and its differences to other systems over their common seeds.

    Args:
        systems: by name.
        against: names of systems with which the others are compared.

    Returns:
        By name: seeds; figures; by_seed (means); minus (by name of the other, by figure).
    """
    summary = dict[str, Any]()
    for name, runs in systems.items():
        seeds = list(runs)
        row: dict[str, Any] = {"seeds": [seed for seed in seeds if seed is not None], "figures": {}, "by_seed": {}}
        for figure, values in mean_of(runs, seeds).items():
            row["figures"][figure] = estimate(values)
            row["by_seed"][figure] = [
                round(float(np.nanmean(runs[seed][figure])), 4) for seed in seeds if figure in runs[seed]
            ]
        others = {other: _minus(runs, systems[other]) for other in against if other != name}
        row["minus"] = {other: found for other, found in others.items() if found}
        summary[name] = row
    return summary


def _minus(runs: Runs, others: Runs) -> dict[str, Any]:
    """Differences by figure; none without a common seed."""
    shared = [seed for seed in runs if seed in others]
    if None in runs or None in others:
        mine, theirs = mean_of(runs, list(runs)), mean_of(others, list(others))
    elif shared:
        mine, theirs = mean_of(runs, shared), mean_of(others, shared)
    else:
        return {}
    return {figure: difference(mine[figure], theirs[figure]) for figure in mine if figure in theirs}
