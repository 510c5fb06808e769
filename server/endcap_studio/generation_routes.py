"""Generations: what is live beside what is on trial, reports of both, promoting and going back."""

import json
from pathlib import Path
from typing import Annotated

from endcap_client import Page
from endcap_server.apply.operations import promote, roll_back
from endcap_server.apply.rollout import RolloutOptions
from endcap_server.apply.side_by_side import SideBySide, side_by_side
from endcap_server.serving.errors import ApplyError
from endcap_server.serving.generation import StateFolder
from endcap_server.stages.trial import FILE as TRIAL_FILE
from fastapi import APIRouter, Depends, Request, Response

from endcap_studio import trials
from endcap_studio.app import studio_of
from endcap_studio.deployment import Ask
from endcap_studio.errors import StudioError
from endcap_studio.jobs import Job
from endcap_studio.reports import Report, read_reports
from endcap_studio.rule_routes import side_by_side as both_pages
from endcap_studio.security import FormOf, text_of
from endcap_studio.trials import sample_views
from endcap_studio.views import Person, View

router = APIRouter()
ViewOf = Annotated[View, Depends(View.read)]
EQUAL_REQUESTS = 16
"""Requests of a comparison as `endcap compare` makes it."""


@router.get("/generations")
def generations(request: Request, view: ViewOf) -> Response:
    """The history, the trial, and one page of both."""
    studio = studio_of(request)
    server = studio.deployment.server
    standing = server.state_folder.journal.standing()
    person, pages = Person.of(view, studio.deployment.shop), None
    if standing.staged:
        ask = person.ask(view)
        live, staged = studio.deployment.page(ask), studio.deployment.page(ask, standing.staged)
        pages = both_pages(studio, person, live, staged)
    return studio.render(
        request,
        "generations.jinja",
        view=view,
        person=person,
        standing=standing,
        runs=list(reversed(standing.runs.values())),
        trial=_trial(Path(server.run_folder)),
        pages=pages,
        reports=[
            (title, _reports(server.state_folder, number, studio.deployment.build))
            for title, number in (("Live", standing.live), ("On trial", standing.staged))
            if number
        ],
        sample=trials.SAMPLE,
        can_go_back=bool(standing.previous) and server.state_folder.has(standing.previous),
    )


@router.post("/generations/compare")
def compare(request: Request) -> Response:
    """Ask both generations the same requests, as `endcap compare` does."""
    studio = studio_of(request)
    server = studio.deployment.server

    def work(job: Job) -> SideBySide:
        job.report(f"{EQUAL_REQUESTS} requests go to both generations")
        return side_by_side(server, EQUAL_REQUESTS)

    return studio.render(request, "job.jinja", job=studio.jobs.start("compare", work))


@router.post("/generations/try")
def try_both(request: Request) -> Response:
    """Compare pages of many shoppers."""
    studio = studio_of(request)
    deployment, staged = studio.deployment, studio.deployment.staged
    if not staged:
        raise StudioError("no generation is on trial any more")
    shop = deployment.shop
    views = sample_views(shop, trials.SAMPLE)

    def after(ask: Ask) -> Page:
        return deployment.page(ask, staged)

    job = studio.jobs.start("preview", lambda job: trials.try_on(shop, job, views, deployment.page, after), len(views))
    return studio.render(request, "job.jinja", job=job)


@router.post("/generations/{decision}")
def decide(request: Request, decision: str, form: FormOf) -> Response:
    """Promote what is on trial, end the trial, or go back to the generation before; the code of `endcap apply`."""
    studio = studio_of(request)
    if decision not in ("promote", "rollback"):
        raise StudioError(f"expected promote or rollback, got {decision!r}")
    if text_of(form, "sure") != "yes":
        raise StudioError("this changes what every shopper sees: tick that you mean it")
    server = studio.deployment.server

    def work(job: Job) -> None:
        if decision == "promote":
            promote(server, job.report, RolloutOptions())
        else:
            roll_back(server, 0, job.report, RolloutOptions(skip_hashes=True, lenient=True))

    return studio.render(request, "job.jinja", job=studio.jobs.start("rollout", work, can_stop=False))


def _trial(run_folder: Path) -> tuple[str, float] | None:
    """Mode and share of the trial; None without one."""
    try:
        document = json.loads((run_folder / TRIAL_FILE).read_text(encoding="utf-8"))
        return str(document["mode"]), float(document["share"])
    except (OSError, ValueError, LookupError):
        return None


def _reports(state: StateFolder, number: int, build: Path) -> list[Report]:
    """Reports in the folder that a generation was made from, or in the build that is served."""
    try:
        source = Path(state.read(number).source)
    except ApplyError:
        return []
    places = [place for place in (source, source.parent, build) if (place / "evaluation").is_dir()]
    return read_reports(places[0]) if places else []
