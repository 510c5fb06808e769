"""Keeps a server running: restarts it on its ports when it ends by itself.

Triton often ends when the process of a model is killed or crashes, because memory that they share is then missing or
inconsistent.
"""

import time
from collections import deque
from collections.abc import Callable

from endcap_server.launch.server import Server
from endcap_server.serving.errors import LaunchError

MOST_RESTARTS = 5
WITHIN_S = 60.0
"""With more than `MOST_RESTARTS` restarts in this time, give up."""
_FIRST_PAUSE_S = 0.5


class Supervisor:
    """Watches one running server.

    Args:
        server: The server, which is running.
        report: Called with one line for each restart and its reason.
    """

    def __init__(self, server: Server, report: Callable[[str], None]) -> None:
        self._server, self._report = server, report
        self._restarts: deque[float] = deque()

    def run(self) -> None:
        """Keep the server running until it fails too often.

        Raises:
            LaunchError: It ended too often; the message has the last reason.
        """
        while True:
            status = self._server.wait()
            if status < 0:
                crash = self._server.log.crash()
                self._again(f"the server was killed by signal {-status}{crash and f' ({crash})'}")
            else:
                self._again(f"the server ended with status {status}: {self._server.log.reason()}")

    def _again(self, reason: str) -> None:
        """Start the server on its ports; try again up to the limit."""
        while True:
            now = time.monotonic()
            while self._restarts and now - self._restarts[0] > WITHIN_S:
                self._restarts.popleft()
            if len(self._restarts) >= MOST_RESTARTS:
                raise LaunchError(f"{reason} (restarted {MOST_RESTARTS} times within {WITHIN_S:.0f} s, so no more)")
            pause_s = _FIRST_PAUSE_S * 2 ** (len(self._restarts) - 1) if self._restarts else 0.0
            self._restarts.append(now)
            time.sleep(pause_s)
            try:
                self._server.stop()
                self._server.start()
            except LaunchError as error:
                reason = str(error)
                self._report(f"could not start the server again: {reason}")
                continue
            self._report(f"{reason}; started it again in {time.monotonic() - now:.1f} s")
            return
