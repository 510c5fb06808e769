"""Figures per query, turned into estimates with intervals over queries, and paired differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from endcap_builders.intervals import bootstrap

Figures = Mapping[str, np.ndarray]
"""Figures of one run of a system: float64 [q] by name, NaN where a query has none."""


Runs = Mapping[int | None, Figures]
"""Figures of a system by seed; None: a system that has no seed."""


def mean_of(runs: Runs, seeds: Sequence[int | None]) -> dict[str, np.ndarray]:
    """Each query's mean over the given repetitions of a system."""
    chosen = [runs[seed] for seed in seeds]
    names = dict.fromkeys(name for run in chosen for name in run)
    return {name: np.mean([run[name] for run in chosen if name in run], axis=0) for name in names}


def estimate(values: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Mean over the queries that have a value, with its interval."""
    known = values[~np.isnan(values)]
    if not len(known):
        return {"queries": 0}
    interval = bootstrap(lambda rows: known[rows].mean(axis=1), len(known), seed)
    return {**interval.document(), "queries": len(known)}


def difference(values: np.ndarray, other: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Mean of `values - other` query by query, with its interval."""
    return estimate(values - other, seed)


def summarise(systems: Mapping[str, Runs], against: str) -> dict[str, Any]:
    """Estimates of every system, and its difference to the one named `against`, over the seeds that both have."""
    base, summary = systems[against], dict[str, Any]()
    for name, runs in systems.items():
        seeds = list(runs)
        shared = list(base) if None in runs else [seed for seed in seeds if seed in base]
        row: dict[str, Any] = {"seeds": [seed for seed in seeds if seed is not None], "figures": {}, "by_seed": {}}
        for figure, values in mean_of(runs, seeds).items():
            row["figures"][figure] = estimate(values)
            row["by_seed"][figure] = [
                round(float(np.nanmean(runs[seed][figure])), 4) for seed in seeds if figure in runs[seed]
            ]
        if name != against and shared:
            mine, theirs = mean_of(runs, seeds if None in runs else shared), mean_of(base, shared)
            row[f"minus_{against}"] = {
                figure: difference(mine[figure], theirs[figure]) for figure in mine if figure in theirs
            }
        summary[name] = row
    return summary
