"""The announcement of a generation on trial in STATUS, by which clients send it a share of the requests.

`endcap apply` writes it to the server's run folder, which is removed when the server stops.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "trial.json"


def is_shown(announcement: Mapping[str, Any] | None, generation: int) -> bool:
    """Whether callers use the answers of a generation: those of a shadow are dropped.

    Args:
        announcement: STATUS.staging.
        generation: Number of the generation.
    """
    if announcement is None or announcement["mode"] != "shadow":
        return True
    return bool(announcement["generation"] != str(generation))


class Trial:
    """The file with the announcement. It is checked for every page (some microseconds), so that all generations agree.

    Args:
        folder: The server's run folder.
    """

    def __init__(self, folder: Path):
        self._path, self._version = folder / FILE, (0, 0)
        self._document: dict[str, Any] | None = None

    def document(self) -> dict[str, Any] | None:
        """STATUS.staging: `generation`, `digest`, `mode` (split, shadow), `share`, `models`; None without a trial."""
        try:
            found = self._path.stat()
            version = (found.st_mtime_ns, found.st_ino)
            if version != self._version:
                self._document = json.loads(self._path.read_text(encoding="utf-8"))
                self._version = version
        except (OSError, ValueError):
            self._document, self._version = None, (0, 0)
        return self._document
