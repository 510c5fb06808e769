"""The server's log, with one part per start."""

import os
from pathlib import Path
from typing import BinaryIO

_NOISE = ("CudaDriverHelper has not been", "unable to create stream")
"""Errors that Triton logs at each start without a GPU."""
_CRASH = ("terminate called", "what():", "Signal (")
"""Prefixes of the lines that a crashing process writes (C++ runtime, Triton)."""


class ServerLog:
    """The log file of a server, across its starts.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._start: int | None = None

    def open(self) -> BinaryIO:
        """Open the file for the next start. A restart keeps the earlier log, which has the reason."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        log = self.path.open("wb" if self._start is None else "ab")
        self._start = log.seek(0, os.SEEK_END)
        return log

    def text(self) -> str:
        """The log of the latest start."""
        with self.path.open("rb") as log:
            log.seek(self._start or 0)
            return log.read().decode(errors="replace")

    def reason(self) -> str:
        """The first error lines of the latest start."""
        lines = [line for line in self.text().splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("E") and "] " in line]
        errors = [line.split("] ", 1)[1].strip('"') for line in errors]
        errors = [line for line in errors if not line.startswith(_NOISE)]
        known = [line for line in errors if "failed to load" in line or "Error" in line or "rror:" in line]
        return " | ".join((known or errors or lines[-1:])[:2]) or "no log"

    def crash(self) -> str:
        """The crash message of the latest start; "" if there is none, because the process was killed from outside."""
        lines = (line.strip() for line in self.text().splitlines())
        return " ".join([line for line in lines if line.startswith(_CRASH)][:3])
