"""Who may use the studio, and what a browser may do with its pages.

A session is a random name in a cookie that scripts cannot read and other sites cannot send. Every action is a POST with
a token that belongs to the session. Where others reach the studio, a session must have shown the login token first.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import FormData

COOKIE = "endcap_studio"
TOKEN_FIELD, TOKEN_HEADER = "csrf", "X-CSRF-Token"
LOGIN = "/login"
MOST_BYTES = 1 << 20
"""Longest body of a request."""
_SAFE = ("GET", "HEAD", "OPTIONS")
_OPEN = (LOGIN, "/assets/")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_WRONG_TOKEN_S = 0.5
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Sessions, tokens and headers.

    Args:
        login_token: What a session must show first; "" : none is needed, only this machine reaches the studio.
        hosts: Names in the header Host that are answered; empty: any. Of a studio on loopback, another name means that
            a foreign site has pointed it here.
    """

    def __init__(self, login_token: str = "", hosts: tuple[str, ...] = _LOOPBACK) -> None:
        self._login_token, self._hosts = login_token, () if login_token else hosts
        self._secret = secrets.token_bytes(32)

    @property
    def needs_login(self) -> bool:
        """Whether a session must log in."""
        return bool(self._login_token)

    def token(self, request: Request) -> str:
        """The token of the request's session, for forms."""
        return self._sealed("csrf", request.state.session)

    async def check(self, request: Request) -> None:
        """Refuse an action that does not come from a page of this studio and session.

        Raises:
            HTTPException: 403.
        """
        if request.method in _SAFE:
            return
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise HTTPException(403, "this action was asked for by another site")
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise HTTPException(403, "this action was asked for by another site")
        given = request.headers.get(TOKEN_HEADER) or (await form_of(request)).get(TOKEN_FIELD, "")
        if not isinstance(given, str) or not hmac.compare_digest(given.encode(), self.token(request).encode()):
            raise HTTPException(403, "this form is of another session; load the page again")

    async def answer(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        """Answer a request with session and headers; the middleware."""
        if (refused := self._refused(request)) is not None:
            return self._with_headers(request, refused)
        session, logged_in = self._session(request)
        request.state.session = session or secrets.token_hex(16)
        request.state.logged_in = logged_in
        if self.needs_login and not logged_in and not request.url.path.startswith(_OPEN):
            response: Response = RedirectResponse(LOGIN, 303)
            if "hx-request" in request.headers:
                response = Response(status_code=204, headers={"HX-Redirect": LOGIN})
        else:
            response = await call_next(request)
        if session is None:
            self._remember(response, request.state.session, logged_in=False)
        return self._with_headers(request, response)

    def log_in(self, request: Request, response: Response, token: str) -> bool:
        """Log the session in, under a new name, if the token is right."""
        if not hmac.compare_digest(token.strip().encode(), self._login_token.encode()):
            time.sleep(_WRONG_TOKEN_S)
            return False
        self._remember(response, secrets.token_hex(16), logged_in=True)
        return True

    def _refused(self, request: Request) -> Response | None:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if self._hosts and host not in self._hosts:
            return Response("this studio is for this machine only; open it as 127.0.0.1", 400, media_type="text/plain")
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MOST_BYTES or "transfer-encoding" in request.headers:
            return Response(f"a form of at most {MOST_BYTES} bytes is expected", 413, media_type="text/plain")
        return None

    def _session(self, request: Request) -> tuple[str | None, bool]:
        """Name of the session in the cookie, None without one of this process; whether it is logged in."""
        name, _, seal = request.cookies.get(COOKIE, "").partition(".")
        for logged_in in (True, False):
            if name and hmac.compare_digest(seal.encode(), self._sealed(f"session {logged_in}", name).encode()):
                return name, logged_in
        return None, False

    def _remember(self, response: Response, name: str, *, logged_in: bool) -> None:
        seal = self._sealed(f"session {logged_in}", name)
        response.set_cookie(COOKIE, f"{name}.{seal}", httponly=True, samesite="strict", path="/")

    def _sealed(self, purpose: str, name: str) -> str:
        return hmac.new(self._secret, f"{purpose}\0{name}".encode(), hashlib.sha256).hexdigest()

    @staticmethod
    def _with_headers(request: Request, response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers[name] = value
        if not request.url.path.startswith("/assets/"):
            response.headers["Cache-Control"] = "no-store"
        return response


async def form_of(request: Request) -> FormData:
    """The form of a request."""
    return await request.form()


FormOf = Annotated[FormData, Depends(form_of)]
"""The form, for a handler that runs in a thread of its own."""


def text_of(form: FormData, name: str, most: int = 500) -> str:
    """A text field of a form, without surrounding white space; "" if it is missing.

    Raises:
        HTTPException: 400: it is too long, or a file.
    """
    value = form.get(name, "")
    if not isinstance(value, str) or len(value) > most:
        raise HTTPException(400, f"{name}: expected a text of at most {most} characters")
    return value.strip()
