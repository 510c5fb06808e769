"""Records the latest requests, so that `endcap apply` can replay them against models that are not live yet.

Each request is a JSON file in a ring, in the server's private run folder, which is removed when the server stops. Only
valid requests are recorded, unchanged but for SHOPPER, which is left out: a replay is no page of that shopper. At most
one per quarter of a second is recorded, so that recording is cheap.
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
"""Most ids of a history that are recorded, the latest ones; retrieval uses fewer."""


class Recorder:
    """Records the latest requests.

    Args:
        folder: The server's run folder.
        name: Name of the ring: each process of `retrieval` has its own, with the name of its table of requests in
            flight.
        count: Size of the ring; 0: none.
        clock: Seconds since any start.
    """

    def __init__(self, folder: Path, name: str, count: int, clock: Callable[[], float] = time.monotonic):
        self._folder, self._count, self._clock = folder / FOLDER / name, count, clock
        self._next, self._not_before = 0, 0.0
        if count:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def note(self, inputs: Tensors) -> None:
        """Record a valid request, unless one was just recorded. Errors such as a full disk are ignored."""
        now = self._clock()
        if not self._count or now < self._not_before:
            return
        self._not_before = now + LEAST_PAUSE_S
        path = self._folder / f"{self._next % self._count:04d}.json"
        self._next += 1
        new = path.with_suffix(f".{os.getpid()}.new")
        try:
            text = json.dumps({name: _values(name, tensor) for name, tensor in inputs.items() if name != "SHOPPER"})
            new.write_text(text, encoding="utf-8")
            new.replace(path)
        except OSError:
            new.unlink(missing_ok=True)


def read_recorded(folder: Path, name: str) -> list[dict[str, list[Any]]]:
    """The recorded requests of a ring, oldest first: input name -> values, texts as str."""
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
