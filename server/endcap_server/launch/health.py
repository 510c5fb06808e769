"""Health checks over HTTP for load balancers, answered by the launcher, because Triton cannot report a planned stop.

``GET /live``: 200 as long as the launcher runs. ``GET /ready``: 200 if Triton answers as ready, 503 if it does not, or
if the server drains.
"""

import socket
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from endcap_server.launch.listening import joined
from endcap_server.serving.errors import LaunchError


class _Listener(ThreadingHTTPServer):
    def __init__(self, address: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), handler)


class Health:
    """The two endpoints, from :meth:`start` to :meth:`stop`.

    Args:
        address: Address to listen on.
        port: A free port.
        is_ready: Called for each ``/ready``, from any thread.
    """

    def __init__(self, address: str, port: int, is_ready: Callable[[], bool]) -> None:
        self.draining = False
        self._address, self._port, self._is_ready = address, port, is_ready
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Listen.

        Raises:
            LaunchError: the port was taken meanwhile.
        """
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, text = answer(self.path)
                body = f"{text}\n".encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *values: Any) -> None:
                """Do not log probes, which come every few seconds."""

        try:
            self._server = _Listener(self._address, self._port, Handler)
        except OSError as error:
            raise LaunchError(
                f"cannot listen on {joined(self._address, self._port)} ({error.strerror}); choose another --health-port"
            ) from None
        Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, path: str) -> tuple[HTTPStatus, str]:
        if path == "/live":
            return HTTPStatus.OK, "live"
        if path != "/ready":
            return HTTPStatus.NOT_FOUND, "expected /ready or /live"
        if self.draining:
            return HTTPStatus.SERVICE_UNAVAILABLE, "stopping"
        return (HTTPStatus.OK, "ready") if self._is_ready() else (HTTPStatus.SERVICE_UNAVAILABLE, "not ready")
