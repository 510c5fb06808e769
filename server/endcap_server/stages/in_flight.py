"""The requests in flight, in a small table that the first stage (`retrieval`) and the last (`fusion`) both map.

Triton knows how many requests wait for one model, but not how many are in an ensemble. ``retrieval`` therefore adds
each request that it admits, and ``fusion`` marks it as done. The key of a request is its deadline, which is in the
ticket and unique in the table.
"""

import mmap
import os
import time
from functools import lru_cache
from pathlib import Path

import numpy as np

from endcap_server.stages.run_folder import run_folder

SLOTS = 4096
"""Most requests in flight that the table holds."""

_KEY, _EXPIRES, _DONE = range(3)


def table_path(folder: Path, name: str) -> Path:
    """The file of a table in a run folder."""
    return folder / f"in_flight.{name}.i64"


class InFlight:
    """Table int64 [SLOTS, 3] of (deadline, expiry, completion), nanoseconds on the clock of ``time.monotonic_ns``.

    One process adds and removes requests, others mark them as done. During a reload of ``retrieval``, two processes add
    requests for a moment. If both take the same slot, one request is not counted, but both are answered.

    Args:
        folder: Where the table is kept; :func:`endcap_server.stages.run_folder.run_folder` by default.
        name: The table of the ``retrieval`` model with this name; a part of each ticket.
        create: Create the table if there is none.

    Raises:
        FileNotFoundError: There is none, and ``create`` is False.
    """

    def __init__(self, folder: Path | None = None, name: str = "retrieval", create: bool = True):
        size = SLOTS * 3 * 8
        path = table_path(folder or run_folder(), name)
        descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        try:
            os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        table = np.frombuffer(self._map, dtype=np.int64).reshape(3, SLOTS)
        self._keys, self._expires, self._done = table[_KEY], table[_EXPIRES], table[_DONE]

    def enter(self, deadline_ns: int, expires_ns: int) -> int | None:
        """Add a request; returns its key for :meth:`leave`: the deadline, moved by nanoseconds if that is taken.

        None if the table is full. If nothing marks the request as done (it failed, or its client has gone),
        :meth:`clear` removes it after ``expires_ns``.
        """
        free = np.flatnonzero(self._keys == 0)
        if not len(free):
            return None
        while (self._keys == deadline_ns).any():
            deadline_ns += 1
        slot = int(free[0])
        self._done[slot], self._expires[slot] = 0, expires_ns
        self._keys[slot] = deadline_ns
        return deadline_ns

    def leave(self, deadline_ns: int, now_ns: int | None = None) -> None:
        """Mark a request as done now; no effect if it is not in the table."""
        self._done[self._keys == deadline_ns] = time.monotonic_ns() if now_ns is None else now_ns

    def abandon(self, deadline_ns: int) -> None:
        """Let a request expire now without being done; no effect if it is not in the table."""
        self._expires[self._keys == deadline_ns] = time.monotonic_ns()

    def waiting(self, now_ns: int | None = None) -> set[int]:
        """Keys of the requests that are neither done nor expired."""
        now_ns = time.monotonic_ns() if now_ns is None else now_ns
        under_way = (self._keys != 0) & (self._done == 0) & (self._expires > now_ns)
        return set(self._keys[under_way].tolist())

    def remove(self, key: int) -> None:
        """Remove a request without a trace."""
        self._keys[self._keys == key] = 0

    def clear(self, now_ns: int) -> list[tuple[int, int, bool]]:
        """Remove and return what is done or expired: (when, key, whether it was done), in order of time."""
        over = np.flatnonzero((self._keys != 0) & ((self._done != 0) | (self._expires <= now_ns)))
        events = []
        for slot in over.tolist():
            done = int(self._done[slot])
            events.append((done or int(self._expires[slot]), int(self._keys[slot]), done != 0))
            self._keys[slot] = 0
        return sorted(events)


@lru_cache(maxsize=8)
def table_of(folder: Path, name: str) -> InFlight:
    """The table of a request, opened once. After rollouts, a few are in use.

    Raises:
        FileNotFoundError: There is none, because the request did not pass retrieval.
    """
    return InFlight(folder, name, create=False)
