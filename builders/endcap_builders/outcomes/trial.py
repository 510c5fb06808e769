"""Finds the experiment in exposures: two generations that served shoppers at the same time, and its comparisons."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import binomtest, norm

from endcap_builders.intervals import Interval
from endcap_builders.outcomes.errors import OutcomesError
from endcap_builders.outcomes.experiment import Arm, behaviour_before, compare
from endcap_builders.outcomes.figures import LEAST_SHOPPERS, OUTCOMES, Z

ALL = "all_"
"""Prefix of the outcomes that count every event of a shopper, whether a page had shown the product or not."""
TITLES = {"clicks": "clicks", "carts": "cart adds", "purchases": "purchases"}
POWER = 0.8
_UNLIKELY = 0.001
_SWITCH = timedelta(minutes=1)
"""A rollout ends a generation while some of its pages are on the way: two serve for a moment without a split."""
_MOST_MIXED = 0.05


@dataclass(frozen=True)
class Trial:
    """Two generations and the time in which both served.

    Attributes:
        control, treatment: generations.
        start, end: of the time in which both served, without its last minute.
    """

    control: int
    treatment: int
    start: datetime
    end: datetime


def find_trial(pages: pl.DataFrame, compared: tuple[int, int] | None) -> Trial | None:
    """The two generations to compare.

    Args:
        pages: shopper, generation, time; one row per page.
        compared: control and treatment; None: the two that served most shoppers at the same time, the later one as the
            treatment.

    Returns:
        None if no two generations served at least 30 shoppers each at the same time.

    Raises:
        OutcomesError: One of the named generations showed no shopper a page while the other one served.
    """
    known = pages.filter(pl.col("shopper") != "")
    spans = known.group_by("generation").agg(pl.col("time").min().alias("start"), pl.col("time").max().alias("end"))
    times = {row["generation"]: (row["start"], row["end"]) for row in spans.iter_rows(named=True)}
    if compared is not None:
        return _named(known, times, compared)
    found: list[tuple[int, Trial]] = []
    for control, treatment in combinations(sorted(times), 2):
        trial = Trial(control, treatment, *_common(times[control], times[treatment]))
        shoppers = min(_sizes(known, trial))
        if shoppers >= LEAST_SHOPPERS:
            found.append((shoppers, trial))
    return max(found, key=lambda each: each[0])[1] if found else None


def _named(known: pl.DataFrame, times: dict[int, tuple[datetime, datetime]], compared: tuple[int, int]) -> Trial:
    there = ", ".join(map(str, sorted(times))) or "none"
    for generation in compared:
        if generation not in times:
            raise OutcomesError(
                f"generation {generation}: expected pages of known shoppers, got none; generations with such pages: "
                f"{there}"
            )
    trial = Trial(*compared, *_common(times[compared[0]], times[compared[1]]))
    for generation, shoppers in zip(compared, _sizes(known, trial), strict=True):
        if shoppers < 2:
            raise OutcomesError(
                f"generation {generation}: expected at least 2 shoppers while generations {compared[0]} and "
                f"{compared[1]} served at the same time, got {shoppers}; `endcap apply --split` serves two at a time"
            )
    return trial


def _common(one: tuple[datetime, datetime], other: tuple[datetime, datetime]) -> tuple[datetime, datetime]:
    return max(one[0], other[0]), min(one[1], other[1]) - _SWITCH


def _sizes(known: pl.DataFrame, trial: Trial) -> tuple[int, int]:
    arms = _shoppers(known, trial)
    treated = int(arms["treated"].sum())
    return arms.height - treated, treated


def _shoppers(known: pl.DataFrame, trial: Trial) -> pl.DataFrame:
    """shopper, treated, mixed (saw both): shoppers of the trial.

    A shopper with a page of the treatment belongs to it: nobody else is shown one, while a request that falls back to
    the live generation shows a page of the control to anyone. So the arms stay as they were drawn.
    """
    during = known.filter(
        pl.col("time").is_between(trial.start, trial.end),
        pl.col("generation").is_in([trial.control, trial.treatment]),
    )
    is_treatment = pl.col("generation") == trial.treatment
    return during.group_by("shopper", maintain_order=True).agg(
        is_treatment.any().alias("treated"), (is_treatment.any() & ~is_treatment.all()).alias("mixed")
    )


def run_trial(
    pages: pl.DataFrame, events: pl.DataFrame, trial: Trial, window: timedelta, share: float | None
) -> tuple[dict[str, Any], list[str]]:
    """Every comparison of a trial.

    Args:
        pages: shopper, generation, time, clicks, carts, purchases; one row per page.
        events: As `read_events` returns them.
        trial: What to compare.
        window: Of the attribution; events up to this long after the trial count.
        share: Share of the shoppers that the treatment was given; None: unknown.

    Returns:
        JSON of the trial, and warnings.
    """
    known = pages.filter(pl.col("shopper") != "")
    shoppers = _with_figures(_shoppers(known, trial), known, events, trial, window)
    treated = shoppers["treated"].to_numpy()
    metrics = {}
    for name in (*OUTCOMES, *(f"{ALL}{name}" for name in ("carts", "purchases"))):
        views, outcomes, before = _columns(shoppers, name)
        control, treatment = (Arm(views[arm], outcomes[arm], before[arm]) for arm in (~treated, treated))
        metrics[name] = _metric(control, treatment)
    arms = {
        arm: {"generation": generation, "shoppers": rows.height, "pages": int(rows["views"].sum())}
        for arm, generation, rows in (
            ("control", trial.control, shoppers.filter(~pl.col("treated"))),
            ("treatment", trial.treatment, shoppers.filter("treated")),
        )
    }
    mixed = float(shoppers["mixed"].sum()) / max(int(treated.sum()), 1)
    document: dict[str, Any] = {
        "arms": arms,
        "start": trial.start.isoformat(),
        "end": trial.end.isoformat(),
        "treated_with_pages_of_both": round(mixed, 4),
        "metrics": metrics,
    }
    warnings = []
    if mixed > _MOST_MIXED:
        warnings.append(
            f"{mixed:.0%} of the shoppers of generation {trial.treatment} saw pages of generation {trial.control}: "
            "the effect is underestimated"
        )
    if share is not None:
        document["share"] = {"expected": share, "p": _imbalance(treated, share)}
        if document["share"]["p"] < _UNLIKELY:
            warnings.append(
                f"{treated.mean():.2%} of the shoppers were in the treatment, expected {share:.2%} (p = "
                f"{document['share']['p']:.1g}): the arms differ by more than the treatment: no fair comparison"
            )
    return document, warnings


def _imbalance(treated: np.ndarray, share: float) -> float:
    return float(binomtest(int(treated.sum()), len(treated), share).pvalue)


def _with_figures(
    shoppers: pl.DataFrame, known: pl.DataFrame, events: pl.DataFrame, trial: Trial, window: timedelta
) -> pl.DataFrame:
    """`shoppers` with views, outcomes and events during and before the trial, Float64."""
    time = pl.col("time")
    during = time.is_between(trial.start, trial.end) & pl.col("generation").is_in([trial.control, trial.treatment])
    counted = [pl.len().alias("views"), pl.col(OUTCOMES).sum()]
    of_kind = [(pl.col("kind") == name).sum().alias(f"{ALL}{name}") for name in OUTCOMES]
    parts = [
        (known.filter(during), counted, ""),
        (known.filter(time < trial.start), counted, "_before"),
        (events.filter(time.is_between(trial.start, trial.end + window)), of_kind, ""),
        (events.filter(time < trial.start), of_kind, "_before"),
    ]
    for frame, figures, suffix in parts:
        sums = frame.group_by("shopper").agg(figures)
        sums = sums.rename({name: f"{name}{suffix}" for name in sums.columns if name != "shopper"})
        shoppers = shoppers.join(sums, on="shopper", how="left", maintain_order="left")
    numbers = [name for name in shoppers.columns if name not in ("shopper", "treated", "mixed")]
    return shoppers.with_columns(pl.col(numbers).fill_null(0).cast(pl.Float64))


def _columns(shoppers: pl.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Views, outcomes and earlier behaviour of shoppers; outcomes of all events are per shopper, not per view."""
    kind = name.removeprefix(ALL)
    outcomes = shoppers[name].to_numpy()
    views = np.ones(len(outcomes)) if name.startswith(ALL) else shoppers["views"].to_numpy()
    events_before = shoppers[f"{ALL}{kind}_before"].to_numpy()
    outcomes_before = events_before if name.startswith(ALL) else shoppers[f"{name}_before"].to_numpy()
    return views, outcomes, behaviour_before(shoppers["views_before"].to_numpy(), outcomes_before, events_before)


def title_of(name: str) -> str:
    """An outcome of the comparison in words."""
    title = TITLES[name.removeprefix(ALL)]
    return f"all {title}" if name.startswith(ALL) else title


def _metric(control: Arm, treatment: Arm) -> dict[str, Any]:
    document: dict[str, Any] = {"control": round(control.rate, 6), "treatment": round(treatment.rate, 6)}
    if not control.rate and not treatment.rate:
        return document
    widths = []
    for name, adjusted in (("plain", False), ("cuped", True)):
        found = compare(control, treatment, adjusted)
        document[name] = {"difference": _interval(found.difference)}
        if found.ratio is not None:
            document[name]["ratio"] = _interval(found.ratio)
        widths.append(found.difference.high - found.difference.low)
    if widths[0] > 0:
        document["narrower"] = round(1 - widths[1] / widths[0], 4)
    if control.rate > 0:
        document["detectable"] = round(widths[1] / 2 / Z * (Z + float(norm.ppf(POWER))) / control.rate, 4)
    return document


def _interval(found: Interval) -> dict[str, float]:
    return {"value": round(found.value, 6), "low": round(found.low, 6), "high": round(found.high, 6)}
