"""Logging in, where others than this machine reach the studio."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from endcap_studio.app import studio_of
from endcap_studio.security import LOGIN, FormOf, text_of

router = APIRouter()


@router.get(LOGIN)
def ask(request: Request) -> Response:
    """The form for the token."""
    return studio_of(request).render(request, "login.jinja", wrong=False)


@router.post(LOGIN)
def take(request: Request, form: FormOf) -> Response:
    """Take the token."""
    studio = studio_of(request)
    response: Response = RedirectResponse("/", 303)
    if studio.guard.needs_login and not studio.guard.log_in(request, response, text_of(form, "token")):
        response = studio.render(request, "login.jinja", 403, wrong=True)
    return response
