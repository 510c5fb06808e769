"""What fusion says in STATUS about a generation that is tried beside the live one, so that clients send it a share.

`endcap apply` writes it into the server's run folder; it goes when the server stops, as the models on trial do.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE = "trial.json"
_LOOK_EVERY_S = 0.5


class Trial:
    """The file, looked at twice a second at most.

    Args:
        folder: The server's run folder.
        clock: Seconds, of any beginning.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic):
        self._path, self._clock = folder / FILE, clock
        self._next_look, self._changed_ns = 0.0, 0
        self._document: dict[str, Any] | None = None

    def document(self) -> dict[str, Any] | None:
        """STATUS.staging: `generation`, `mode` (split, shadow), `share`, `models`; None without a trial."""
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + _LOOK_EVERY_S
            self._look()
        return self._document

    def _look(self) -> None:
        try:
            changed_ns = self._path.stat().st_mtime_ns
            if changed_ns != self._changed_ns:
                self._document = json.loads(self._path.read_text(encoding="utf-8"))
                self._changed_ns = changed_ns
        except (OSError, ValueError):
            self._document, self._changed_ns = None, 0
