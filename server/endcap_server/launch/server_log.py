"""The server's log, of which each start is a part."""

import os
from pathlib import Path
from typing import BinaryIO

_NOISE = ("CudaDriverHelper has not been", "unable to create stream")
"""What Triton logs as errors at each start without a GPU."""
_CRASH = ("terminate called", "what():", "Signal (")
"""How lines begin that a process writes when it ends itself: the C++ runtime's, and Triton's."""


class ServerLog:
    """The file that a server writes to, start after start.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path):
        self.path = path
        self._start: int | None = None

    def open(self) -> BinaryIO:
        """The file to write the next start to. Starting again keeps what was logged before: it says why."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        log = self.path.open("wb" if self._start is None else "ab")
        self._start = log.seek(0, os.SEEK_END)
        return log

    def text(self) -> str:
        """What the latest start logged so far."""
        with self.path.open("rb") as log:
            log.seek(self._start or 0)
            return log.read().decode(errors="replace")

    def reason(self) -> str:
        """The first error lines of the latest start: what Triton says before it gives up."""
        lines = [line for line in self.text().splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("E") and "] " in line]
        errors = [line.split("] ", 1)[1].strip('"') for line in errors]
        errors = [line for line in errors if not line.startswith(_NOISE)]
        known = [line for line in errors if "failed to load" in line or "Error" in line or "rror:" in line]
        return " | ".join((known or errors or lines[-1:])[:2]) or "no log"

    def crash(self) -> str:
        """What the latest start wrote as it ended itself, "" when it wrote nothing: it was killed from outside."""
        lines = (line.strip() for line in self.text().splitlines())
        return " ".join([line for line in lines if line.startswith(_CRASH)][:3])
