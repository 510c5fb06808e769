"""Drift of inputs and scores by day: what the models get and give, against a reference.

The population stability index compares two distributions over bins, sum((p - q) ln(p / q)); the bins are the tenths of
the reference's scores. Below 0.1 nothing has changed much, above 0.25 much has (Siddiqi 2006, "Credit Risk Scorecards",
chapter 9). Scores of different models are not comparable, so each generation has a reference of its own.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from endcap_builders.outcomes.errors import OutcomesError
from endcap_builders.outcomes.shown import Shown

BINS = 10
MUCH = 0.25
"""Index above which much has changed."""
LEAST_SCORES = 1000
"""A day with fewer scores has no index: chance alone would move it."""
_CLASSIC = "classic:"


def drift(
    shown: Shown, ensemble: str, reference_days: int, given: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Drift of one ensemble.

    Args:
        shown: What was shown.
        ensemble: storefront or search.
        reference_days: first days of each generation that are its reference.
        given: References by generation from an earlier report, which take the place of those days; the last one is
            used for generations that it does not have.

    Returns:
        reference: by generation; days: one row per day and generation: pages, unknown_products, empty_keywords, psi.
    """
    scores = shown.scores.filter(pl.col("ensemble") == ensemble)
    inputs = _inputs(shown, ensemble)
    references: dict[str, Any] = {}
    days: list[dict[str, Any]] = []
    for generation in sorted(inputs["generation"].unique()):
        own = inputs.filter(pl.col("generation") == generation).sort("day")
        of_scores = scores.filter(pl.col("generation") == generation)
        first = own["day"].head(reference_days)
        if given:
            reference = dict(given.get(str(generation)) or given[max(given, key=int)])
        else:
            reference = _reference(own.filter(pl.col("day").is_in(first.implode())), of_scores, first)
        references[str(generation)] = reference
        for row in own.iter_rows(named=True):
            psi = _day_index(of_scores.filter(pl.col("day") == row["day"]), reference)
            days.append({
                "day": str(row["day"]),
                "generation": generation,
                "is_reference": not given and row["day"] in first,
                **_shares(row),
                **({} if psi is None else {"psi": psi}),
            })  # fmt: skip
    days.sort(key=lambda each: (each["day"], each["generation"]))
    return {"reference": references, "days": days}


def read_reference(path: Path) -> dict[str, dict[str, Any]]:
    """The references of an earlier report.json.

    Raises:
        OutcomesError: The file is no such report.
    """
    try:
        found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["drift"]["reference"]
        edges = [reference["edges"] for reference in found.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutcomesError(f"{path}: expected report.json of an earlier `endcap outcomes`, got {error!r}") from None
    if not edges:
        raise OutcomesError(f"{path}: expected a report with references, got one without")
    return found


def stability(expected: Sequence[float], counts: Sequence[float]) -> float:
    """Population stability index of counts against other counts, over the same bins."""
    # Half an observation more in each bin: an empty bin would make the index infinite.
    shares = [(np.asarray(each, float) + 0.5) / (np.sum(each) + 0.5 * len(each)) for each in (expected, counts)]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def _inputs(shown: Shown, ensemble: str) -> pl.DataFrame:
    """Sums by day and generation: pages, known and unknown products of histories, placements, those without keywords.

    Classic placements never have keywords.
    """
    pages = shown.pages.filter(pl.col("ensemble") == ensemble).with_columns(day=pl.col("time").dt.date())
    generated = shown.placements.filter(~pl.col("source").str.starts_with(_CLASSIC))
    empty = generated.group_by("page").agg(
        pl.len().cast(pl.Int64).alias("placements"),
        (pl.col("keywords").list.len() == 0).sum().cast(pl.Int64).alias("empty"),
    )
    return (
        pages.join(empty, on="page", how="left")
        .group_by("day", "generation")
        .agg(pl.len().alias("pages"), pl.col("history", "unknown_ids", "placements", "empty").sum())
    )


def _shares(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {"pages": row["pages"]}
    if row["history"] + row["unknown_ids"]:
        found["unknown_products"] = round(row["unknown_ids"] / (row["history"] + row["unknown_ids"]), 4)
    if row["placements"]:
        found["empty_keywords"] = round(row["empty"] / row["placements"], 4)
    return found


def _reference(inputs: pl.DataFrame, scores: pl.DataFrame, days: pl.Series) -> dict[str, Any]:
    total = inputs.select(pl.col("pages", "history", "unknown_ids", "placements", "empty").sum()).row(0, named=True)
    of_days = scores.filter(pl.col("day").is_in(days.implode()))
    counted = of_days.group_by("score").agg(pl.col("count").sum()).sort("score")
    values, counts = counted["score"].to_numpy(), counted["count"].to_numpy()
    edges: list[float] = []
    if len(values):
        cumulated = np.cumsum(counts)
        places = np.searchsorted(cumulated, cumulated[-1] * np.arange(1, BINS) / BINS)
        # A score that is very frequent would be the edge of several bins.
        edges = sorted({float(values[place]) for place in places})
    return {
        "days": [str(day) for day in days],
        **_shares(total),
        "edges": edges,
        "counts": _binned(edges, counted).tolist(),
    }


def _binned(edges: Sequence[float], scores: pl.DataFrame) -> np.ndarray:
    """Counts of scores up to each edge, and above the last, int64 [edges + 1]."""
    places = np.searchsorted(np.array(edges), scores["score"].to_numpy().astype(float))
    return np.bincount(places, scores["count"].to_numpy(), minlength=len(edges) + 1).astype(np.int64)


def _day_index(scores: pl.DataFrame, reference: Mapping[str, Any]) -> float | None:
    counts = _binned(reference["edges"], scores)
    if min(counts.sum(), np.sum(reference["counts"])) < LEAST_SCORES:
        return None
    return round(stability(reference["counts"], counts.tolist()), 4)
