"""`endcap outcomes`: reads exposures and events, attributes, computes figures, writes the report."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from endcap_builders.outcomes.attribution import WINDOW_HOURS, attribute, with_outcomes
from endcap_builders.outcomes.drift import drift, read_reference
from endcap_builders.outcomes.errors import OutcomesError
from endcap_builders.outcomes.events import KINDS, Track, read_events, shopper_keys
from endcap_builders.outcomes.figures import documents, rates
from endcap_builders.outcomes.metrics import write_metrics
from endcap_builders.outcomes.report import write_outcomes
from endcap_builders.outcomes.shown import Shown, read_shown
from endcap_builders.outcomes.trial import find_trial, run_trial
from endcap_builders.step import progress_bar

_THEMES_OVER_TIME = 8
"""Most frequent themes whose rates are computed by day."""
_NO_SHOPPER = (
    "expected pages with a hash of the shopper, got none; send SHOPPER with each request, or STATUS.page_id with each "
    "event (column page_id)"
)


@dataclass(frozen=True)
class OutcomesRequest:
    """What to compute.

    Attributes:
        exposures: folder of exposures.
        events: Parquet file of events, or a folder of them.
        out: folder of the report; None: outcomes beside the exposures.
        secret: file of the deployment's secret; None: beside the exposures.
        ensemble: whose pages are measured: storefront or search.
        window_hours: longest time between a page and an event that counts for it.
        compared: control and treatment generation; None: the two that served most shoppers at the same time.
        share: of the shoppers that the treatment was given; None: unknown.
        reference_days: first days of a generation that are its reference of drift.
        reference: report.json of an earlier run whose references are used instead; None: none.
        metrics: file of drift as metrics for Prometheus; None: none.
    """

    exposures: Path
    events: Path
    out: Path | None = None
    secret: Path | None = None
    ensemble: str = "storefront"
    window_hours: float = WINDOW_HOURS
    compared: tuple[int, int] | None = None
    share: float | None = None
    reference_days: int = 1
    reference: Path | None = None
    metrics: Path | None = None


def run_outcomes(request: OutcomesRequest, console: Console | None = None) -> dict[str, Any]:
    """Write report.json, report.md and plots; returns the report.

    Raises:
        OutcomesError: no exposures or events, times in the future, another secret, an arm without shoppers.
        CatalogueError: the events are no table of events.
    """
    shown_on = console or Console(stderr=True)

    def track(items: Any, description: str, total: float | None = None) -> Any:
        with progress_bar(shown_on) as progress:
            yield from progress.track(items, description=description, total=total)

    report = outcomes_report(request, track)
    for path in write_outcomes(report, request.out or request.exposures.resolve().parent / "outcomes"):
        shown_on.print(str(path), soft_wrap=True, highlight=False)
    if request.metrics is not None:
        write_metrics(report, request.metrics)
        shown_on.print(str(request.metrics), soft_wrap=True, highlight=False)
    return report


def outcomes_report(request: OutcomesRequest, track: Track) -> dict[str, Any]:
    """The report, without writing it.

    Args:
        request: What to compute.
        track: For progress.

    Raises:
        OutcomesError, CatalogueError: As `run_outcomes`.
    """
    now, keys = datetime.now(UTC), shopper_keys(request.exposures, request.secret)
    given = read_reference(request.reference) if request.reference else None
    events = read_events(request.events, keys, now, track)
    shown = read_shown(request.exposures, events, now, track)
    _matched(request, shown, events)
    return {
        "format": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "exposures": str(request.exposures),
        "events": str(request.events),
        **outcomes_of(request, shown, events, given),
    }


def outcomes_of(
    request: OutcomesRequest, shown: Shown, events: pl.DataFrame, given: dict[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The figures of the report, except where they come from.

    Raises:
        OutcomesError: nothing of this ensemble was shown, or an arm has no shoppers.
    """
    window = timedelta(hours=request.window_hours)
    last_event = events["time"][-1]
    of_ensemble = shown.pages.filter(pl.col("ensemble") == request.ensemble)
    before = of_ensemble.filter(pl.col("time") <= last_event)
    # Only an event that names its page can count for a page without a shopper.
    named = bool((events["page_id"] != "").any())
    pages = before if named else before.filter(pl.col("shopper") != "")
    if pages.is_empty():
        raise OutcomesError(_nothing_shown(request, shown, before, of_ensemble, last_event))
    attributed = attribute(shown.pages, shown.products, events, window)
    unit = pl.when(pl.col("shopper") == "").then(pl.col("page_id")).otherwise(pl.col("shopper")).alias("unit")
    pages = with_outcomes(pages, attributed, ["page"]).with_columns(unit, day=pl.col("time").dt.date())
    placements = with_outcomes(shown.placements, attributed, ["page", "position"])
    placements = placements.join(pages.select("page", "unit", "day"), on="page", maintain_order="left")
    titled = placements.filter(pl.col("title") != "").rename({"title": "theme"})
    frequent = titled["theme"].value_counts(sort=True)["theme"].head(_THEMES_OVER_TIME).to_list()
    counts = {
        **_counts(shown, events, attributed, pages),
        "pages_after_the_last_event": of_ensemble.height - before.height,
        "pages_without_shopper": int((before["shopper"] == "").sum()),
        "events_name_pages": named,
        "pages_of_other_ensembles": shown.pages.height - of_ensemble.height,
    }
    trial = find_trial(pages, request.compared)
    experiment, warnings = (
        run_trial(pages, events, trial, window, request.share) if trial is not None else (None, list[str]())
    )
    views = {
        "total": (pages, []),
        "generations": (pages, ["generation"]),
        "days": (pages, ["day", "generation"]),
        "sources": (placements, ["source"]),
        "positions": (placements, ["position"]),
        "keywords": (
            placements.explode("keywords").filter(pl.col("keywords").is_not_null()).rename({"keywords": "keyword"}),
            ["keyword"],
        ),
        "themes": (titled, ["theme"]),
    }
    over_time = {
        "source": placements,
        "position": placements,
        "theme": titled.filter(pl.col("theme").is_in(frequent)),
    }
    return {
        "ensemble": request.ensemble,
        "window_hours": request.window_hours,
        "counts": counts,
        "warnings": [*warnings, *_warnings(counts)],
        **{name: documents(rates(frame, by), by) for name, (frame, by) in views.items()},
        "over_time": {name: documents(rates(frame, ["day", name]), ["day", name]) for name, frame in over_time.items()},
        "experiment": experiment,
        "drift": drift(shown, request.ensemble, request.reference_days, given),
    }


def _nothing_shown(
    request: OutcomesRequest, shown: Shown, before: pl.DataFrame, of_ensemble: pl.DataFrame, last_event: Any
) -> str:
    if of_ensemble.is_empty():
        there = " and ".join(sorted(shown.pages["ensemble"].unique()))
        return f"{request.exposures}: expected answers of {request.ensemble}, got only those of {there}"
    if before.height:
        return f"{request.exposures}: {_NO_SHOPPER}"
    first_page = of_ensemble["time"].sort()[0]
    return (
        f"{request.events}: expected events after the first page ({first_page:%Y-%m-%d %H:%M} UTC), got the last one "
        f"at {last_event:%Y-%m-%d %H:%M}; name later events"
    )


def _matched(request: OutcomesRequest, shown: Shown, events: pl.DataFrame) -> None:
    """Whether events and exposures know each other.

    Raises:
        OutcomesError: No event names a shopper or a page of the exposures.
    """
    of_pages = events.filter(pl.col("page_id") != "").join(shown.pages, on="page_id", how="semi")
    known = shown.pages.filter(pl.col("shopper") != "")
    if of_pages.height or events.join(known, on="shopper", how="semi").height:
        return
    if known.is_empty():
        raise OutcomesError(f"{request.exposures}: {_NO_SHOPPER}")
    raise OutcomesError(
        f"{request.events}: expected shoppers of the exposures, got none of its {events['shopper'].n_unique():,} among "
        f"their {known['shopper'].n_unique():,}; user_id must be what requests send as SHOPPER, and the secret that of "
        "the servers (--secret FILE)"
    )


def _counts(shown: Shown, events: pl.DataFrame, attributed: pl.DataFrame, pages: pl.DataFrame) -> dict[str, Any]:
    span = pages.select(pl.col("time").min().alias("first"), pl.col("time").max().alias("last")).row(0)
    measured = attributed.join(pages, on="page", how="semi")
    return {
        "pages": pages.height,
        "first": span[0].isoformat(),
        "last": span[1].isoformat(),
        "shoppers": pages.filter(pl.col("shopper") != "")["shopper"].n_unique(),
        "events": {kind: int((events["kind"] == kind).sum()) for kind in KINDS.values()},
        "attributed": {kind: int((measured["kind"] == kind).sum()) for kind in KINDS.values()},
    }


def _warnings(counts: dict[str, Any]) -> list[str]:
    found = []
    if counts["pages_after_the_last_event"]:
        found.append(f"pages after the last event, left out: {counts['pages_after_the_last_event']:,}")
    if counts["pages_without_shopper"]:
        what = "with outcomes of events that name them only" if counts["events_name_pages"] else "left out"
        found.append(f"pages without a shopper, {what}: {counts['pages_without_shopper']:,}")
    return found
