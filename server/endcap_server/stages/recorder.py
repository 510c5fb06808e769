"""The latest requests of a server, kept for `endcap apply` to replay against models that are not live yet.

One JSON file a request in a ring, in the server's private run folder, which goes when the server stops. Requests are
kept as they came and only if they are valid; at most one in a quarter of a second, so that it costs nothing.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from endcap_server.declared.tensors import Tensors

FOLDER = "requests"
LEAST_PAUSE_S = 0.25
MOST_HISTORY = 500
"""Ids kept of a history, the latest: retrieval uses fewer."""


class Recorder:
    """Keeps the latest requests.

    Args:
        folder: The server's run folder.
        name: Which ring: of every process of `retrieval` its own, called as its table of requests in flight.
        count: How many are kept, 0: none.
        clock: Seconds, of any beginning.
    """

    def __init__(self, folder: Path, name: str, count: int, clock: Callable[[], float] = time.monotonic):
        self._folder, self._count, self._clock = folder / FOLDER / name, count, clock
        self._next, self._not_before = 0, 0.0
        if count:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def note(self, inputs: Tensors) -> None:
        """Keep a valid request, unless one was kept just now; a full disk is none of the request's concern."""
        now = self._clock()
        if not self._count or now < self._not_before:
            return
        self._not_before = now + LEAST_PAUSE_S
        path = self._folder / f"{self._next % self._count:04d}.json"
        self._next += 1
        new = path.with_suffix(f".{os.getpid()}.new")
        try:
            text = json.dumps({name: _values(name, tensor) for name, tensor in inputs.items()})
            new.write_text(text, encoding="utf-8")
            new.replace(path)
        except OSError:
            new.unlink(missing_ok=True)


def read_recorded(folder: Path, name: str) -> list[dict[str, list[Any]]]:
    """The requests kept in a ring of a run folder, oldest first: input name -> values, texts as str."""
    found = []
    for path in (folder / FOLDER / name).glob("*.json"):
        try:
            found.append((path.stat().st_mtime_ns, json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError):
            continue
    return [request for _, request in sorted(found, key=lambda each: each[0])]


def _values(name: str, tensor: np.ndarray) -> list[Any]:
    values = np.asarray(tensor).reshape(-1).tolist()
    if name == "HISTORY":
        values = values[-MOST_HISTORY:]
    return [value.decode(errors="replace") if isinstance(value, bytes) else value for value in values]
