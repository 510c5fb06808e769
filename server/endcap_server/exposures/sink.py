"""The sink: takes exposures from the request's path through a bounded queue, and writes them on its own thread."""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from endcap_server.exposures.record import Exposure

OUTCOMES = ("written", "dropped", "failed")
"""What becomes of an exposure: written; dropped, because the queue was full; or its write failed."""
_PERIOD_S = 0.2
_AT_ONCE = 256


class Writer(Protocol):
    """Where exposures are written."""

    def write(self, lines: Sequence[bytes]) -> None:
        """Write all lines or none.

        Raises:
            OSError: None was written.
        """

    def tick(self) -> None:
        """Do what is due after some time."""

    def close(self) -> None:
        """Finish what is open."""


class ExposureSink:
    """A queue and the thread that empties it. Requests never wait for it.

    Args:
        writer: Where exposures are written.
        process: Name of this process in the records.
        waiting: Most exposures in the queue; further ones are dropped and counted.
    """

    def __init__(self, writer: Writer, process: str, waiting: int):
        self._writer, self._process, self._most = writer, process, waiting
        self._queue: deque[tuple[int, Exposure]] = deque()
        self._lock = threading.Lock()
        self._sequence = 0
        self._counts = dict.fromkeys(OUTCOMES, 0)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="exposures", daemon=True)
        self._thread.start()

    def offer(self, exposure: Exposure) -> None:
        """Record an exposure later, or count it as dropped. Never blocks on the writer."""
        with self._lock:
            number, self._sequence = self._sequence, self._sequence + 1
            if len(self._queue) >= self._most:
                self._counts["dropped"] += 1
            else:
                self._queue.append((number, exposure))

    def counts(self) -> Mapping[str, int]:
        """How many exposures had which of OUTCOMES so far; the others wait."""
        with self._lock:
            return dict(self._counts)

    def close(self) -> None:
        """Write what waits and finish."""
        self._stopped.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stopped.wait(_PERIOD_S)
            while self._write_some():
                self._safely(self._writer.tick)
            self._safely(self._writer.tick)
        self._safely(self._writer.close)

    def _write_some(self) -> bool:
        with self._lock:
            taken = [self._queue.popleft() for _ in range(min(_AT_ONCE, len(self._queue)))]
        if not taken:
            return False
        try:
            lines = [exposure.line(self._process, number) for number, exposure in taken]
            self._writer.write(lines)
            outcome = "written"
        except Exception:  # whatever went wrong with these, the next ones are tried
            outcome = "failed"
        with self._lock:
            self._counts[outcome] += len(taken)
        return True

    @staticmethod
    def _safely(step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:  # a segment that cannot be closed stays a journal, which readers read too
            return
