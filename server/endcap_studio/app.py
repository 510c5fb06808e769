"""The studio as an ASGI application."""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Any

from endcap_builders.catalogue import CatalogueError
from endcap_builders.outcomes.errors import OutcomesError
from endcap_client.errors import EndcapError, InvalidArgument
from endcap_client.rendering import environment, page_style
from endcap_server.apply.rollout import RolloutRefused
from endcap_server.facts.catalogues import Catalogues
from endcap_server.lint import RepositoryError
from endcap_server.serving.control import ControlError
from endcap_server.serving.errors import ApplyError
from endcap_server.shop.columns import StoreError
from endcap_server.shop.facts_journal import FactsError
from endcap_server.shop.standing_rules import title_key
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException as StarletteHTTPException

from endcap_studio.deployment import Deployment
from endcap_studio.errors import StudioError
from endcap_studio.jobs import Jobs
from endcap_studio.security import Guard

EXPECTED = (
    EndcapError,
    ApplyError,
    RolloutRefused,
    ControlError,
    RepositoryError,
    FactsError,
    StoreError,
    OutcomesError,
    CatalogueError,
)
"""Errors whose message is a sentence for a person."""
_ASSETS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}
_LATENCIES, _REFUSED = 40, 12


@dataclass
class Studio:
    """What the pages share.

    Attributes:
        deployment: The server.
        guard: Who may use it.
        jobs: Work under way.
        latencies: Seconds of the latest pages.
        refused: (title, why) of what checks have refused on the latest pages.
        catalogues: Names that rules may have.
        outcomes: The report that was computed last; empty: none.
    """

    deployment: Deployment
    guard: Guard
    jobs: Jobs = field(default_factory=lambda: Jobs(EXPECTED))
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))
    refused: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=_REFUSED))
    catalogues: Catalogues | None = None
    outcomes: dict[str, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def templates(self) -> Environment:
        """Templates of the studio, and those of the one renderer of pages."""
        loader = environment().loader
        assert loader is not None
        found = Environment(
            loader=ChoiceLoader([PackageLoader("endcap_studio"), loader]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        found.globals["title_key"] = title_key
        return found

    def render(self, request: Request, name: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page of a template."""
        common = {
            "csrf": self.guard.token(request),
            "path": request.url.path,
            "build": self.deployment.build.name,
            "can_log_out": self.guard.needs_login,
        }
        return HTMLResponse(self.templates.get_template(name).render(common | values), status)

    def problem(self, request: Request, sentence: str, status: int) -> HTMLResponse:
        """A page, or the part of one that was asked for, that says what is wrong."""
        name = "problem_part.jinja" if "hx-request" in request.headers else "problem.jinja"
        return self.render(request, name, status, sentence=sentence)


def create_app(studio: Studio) -> FastAPI:
    """The application."""
    from endcap_studio import (
        generation_routes,
        job_routes,
        login,
        outcome_routes,
        page_routes,
        rule_routes,
        theme_routes,
    )

    app = FastAPI(
        title="endcap studio",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(studio.guard.check)],
    )
    app.state.studio = studio
    app.middleware("http")(studio.guard.answer)
    _add_errors(app, studio)
    views = (page_routes, rule_routes, theme_routes, generation_routes, outcome_routes)
    for module in (login, job_routes, *views):
        app.include_router(module.router)
    assets = _assets()

    @app.get("/assets/{name}")
    def asset(name: str) -> Response:
        if name not in assets:
            raise HTTPException(404, "there is no such file")
        text, media_type = assets[name]
        return Response(text, media_type=media_type, headers={"Cache-Control": "max-age=300"})

    return app


def studio_of(request: Request) -> Studio:
    """The studio of a request."""
    studio: Studio = request.app.state.studio
    return studio


def _add_errors(app: FastAPI, studio: Studio) -> None:
    """Say every expected error in one sentence on a page of the studio."""

    def unavailable(request: Request, error: Exception) -> Response:
        return studio.problem(request, str(error), 400 if isinstance(error, InvalidArgument | StudioError) else 503)

    for kind in (*EXPECTED, StudioError):
        app.add_exception_handler(kind, unavailable)

    @app.exception_handler(StarletteHTTPException)
    def refused(request: Request, error: StarletteHTTPException) -> Response:
        return studio.problem(request, str(error.detail), error.status_code)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        first: Mapping[str, Any] = error.errors()[0]
        place = ".".join(str(each) for each in first["loc"][1:])
        return studio.problem(request, f"{place}: {first['msg'].lower()}, got {str(first.get('input'))[:60]!r}", 400)

    @app.exception_handler(Exception)
    def fault(request: Request, error: Exception) -> Response:
        return PlainTextResponse("the studio failed; its terminal says why", 500)


def _assets() -> dict[str, tuple[bytes, str]]:
    found = {"page.css": (page_style().encode(), "text/css")}
    for file in files("endcap_studio").joinpath("assets").iterdir():
        ending = "." + file.name.rpartition(".")[2]
        if ending in _ASSETS:
            found[file.name] = (file.read_bytes(), _ASSETS[ending])
    return found
