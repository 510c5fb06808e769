"""Outcomes: what came of the pages that were shown, over time."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from endcap_builders.outcomes.command import OutcomesRequest, outcomes_report
from endcap_client.rendering import SOURCES
from endcap_server.exposures.record import SECRET_FILE
from fastapi import APIRouter, Query, Request, Response

from endcap_studio.app import Studio, studio_of
from endcap_studio.charts import chart
from endcap_studio.errors import StudioError
from endcap_studio.jobs import Job

router = APIRouter()
GROUPS = {
    "generation": ("generations", "page view"),
    "source": ("sources", "placement shown"),
    "position": ("positions", "placement shown"),
    "theme": ("themes", "placement shown"),
}
"""Column -> part of the report with its totals, and what rates are per."""
OUTCOMES = {"carts": "Cart adds", "clicks": "Clicks", "purchases": "Purchases"}
_ROWS = 40


@router.get("/outcomes")
def outcomes(
    request: Request,
    by: Literal["generation", "source", "position", "theme"] = "source",
    of: Annotated[Literal["carts", "clicks", "purchases"], Query()] = "carts",
) -> Response:
    """Rates by day and group, and in all."""
    studio = studio_of(request)
    report = studio.outcomes or _written(studio)
    part, per = GROUPS[by]
    totals = report.get(part, []) if report else []
    days = (report["days"] if by == "generation" else report.get("over_time", {}).get(by, [])) if report else []
    return studio.render(
        request,
        "outcomes.jinja",
        report=report,
        by=by,
        of=of,
        per=per,
        groups=list(GROUPS),
        outcomes=OUTCOMES,
        chart=chart([_named(row, by) for row in days], by, of),
        totals=[_named(row, by) for row in totals[:_ROWS]],
        events=studio.deployment.events,
    )


@router.post("/outcomes/compute")
def compute(request: Request) -> Response:
    """Read exposures and events again."""
    studio = studio_of(request)
    events = studio.deployment.events
    if events is None:
        raise StudioError("no events are known; name those that followed the pages with `endcap studio --events FILE`")
    server = studio.deployment.server
    secret = studio.deployment.build / SECRET_FILE
    asked = OutcomesRequest(Path(server.exposures), events, secret=secret)

    def work(job: Job) -> None:
        def track(items: Iterable[Any], description: str, total: float | None = None) -> Iterator[Any]:
            job.report(description)
            for item in items:
                yield item
                job.step()

        studio.outcomes = outcomes_report(asked, track)

    return studio.render(request, "job.jinja", job=studio.jobs.start("outcomes", work))


def _written(studio: Studio) -> dict[str, Any]:
    """The report that `endcap outcomes` has written; empty without one."""
    path = Path(studio.deployment.server.exposures).parent / "outcomes" / "report.json"
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) and report.get("ensemble") == "storefront" else {}


def _named(row: dict[str, Any], by: str) -> dict[str, Any]:
    """A row with what its group means."""
    if by == "source":
        return row | {by: SOURCES.get(row[by], row[by])}
    return row | {by: f"{by} {row[by]}"} if by in ("generation", "position") else row
