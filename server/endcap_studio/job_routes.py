"""How far work is, and its end."""

from fastapi import APIRouter, Request, Response

from endcap_studio.app import studio_of

router = APIRouter()


@router.get("/jobs/{number}")
def look(request: Request, number: str) -> Response:
    """A part of a page that asks again until the work has ended, and then shows its result."""
    studio = studio_of(request)
    return studio.render(request, "job.jinja", job=studio.jobs.get(number))


@router.post("/jobs/{number}/cancel")
def cancel(request: Request, number: str) -> Response:
    """Stop the work at its next step."""
    studio = studio_of(request)
    job = studio.jobs.get(number)
    job.cancel()
    return studio.render(request, "job.jinja", job=job)
