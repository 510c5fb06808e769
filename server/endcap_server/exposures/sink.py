"""The sink: takes exposures from the request's path through a bounded queue, and writes them on its own thread."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from endcap_server.exposures.folder import ExposureFolder
from endcap_server.exposures.ledger import Ledger
from endcap_server.exposures.log import LOG
from endcap_server.exposures.record import Exposure, Numbered

OUTCOMES = ("written", "dropped", "failed", "lost")
"""What becomes of an exposure: written; dropped, because the queue was full; its write failed; or it was lost with a
process that was killed, which another process found."""
_PERIOD_S = 0.2
_AT_ONCE = 256
_ADOPT_S = 60.0
_CLOSE_S = 10.0


class Writer(Protocol):
    """Where exposures are written. It counts in the ledger what it has written."""

    def write(self, taken: Sequence[Numbered]) -> None:
        """Take all exposures or none; wait as long as there is no room.

        Raises:
            OSError: None was taken.
        """

    def tick(self) -> None:
        """Do what is due after some time."""

    def close(self) -> bool:
        """Finish what is open; return whether nothing is left open."""

    def stop(self) -> None:
        """Wait for nothing any more; called from another thread."""


class ExposureSink:
    """A queue and the thread that empties it. Requests never wait for it.

    Args:
        writer: Where exposures are written.
        ledger: Counts what becomes of them; its process is the one in the records.
        waiting: Most exposures in the queue; further ones are dropped and counted.
    """

    def __init__(self, writer: Writer, ledger: Ledger, waiting: int):
        self._writer, self._ledger, self._most = writer, ledger, waiting
        self._folder = ExposureFolder(ledger.folder)
        self._queue: deque[Numbered] = deque()
        self._lock = threading.Lock()
        self._lost, self._adopted, self._told_of = 0, 0.0, 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="exposures", daemon=True)
        self._thread.start()

    def offer(self, exposure: Exposure) -> None:
        """Record an exposure later, or count it as dropped. Never blocks on the writer."""
        with self._lock:
            number = self._ledger.add("offered")
            if len(self._queue) >= self._most:
                self._ledger.add("dropped")
            else:
                self._queue.append((number, exposure))

    def counts(self) -> Mapping[str, int]:
        """How many exposures had which of OUTCOMES so far; the others wait."""
        return {**{name: self._ledger[name] for name in OUTCOMES[:-1]}, "lost": self._lost}

    def close(self) -> None:
        """Write what waits and finish."""
        self._stopped.set()
        self._writer.stop()
        self._thread.join(timeout=_CLOSE_S)
        if not self._thread.is_alive():
            self._safely("keeping counts", self._ledger.close)

    def _run(self) -> None:
        self._safely("keeping counts", self._ledger.persist)
        stopped = False
        while not stopped:
            self._safely("counting what ended processes lost", self._adopt)
            stopped = self._stopped.wait(_PERIOD_S)
            asked = self._folder.asked()
            while self._write_some():
                self._safely("closing a segment", self._writer.tick)
            self._safely("closing a segment", self._writer.tick)
            self._safely("keeping counts", self._ledger.save)
            self._tell_of_dropped()
            if asked > self._ledger["closed"]:
                # What was offered before the request is written now.
                self._safely("closing a segment", partial(self._close_for, asked))
        self._safely("closing a segment", self._writer.close)

    def _write_some(self) -> bool:
        with self._lock:
            taken = [self._queue.popleft() for _ in range(min(_AT_ONCE, len(self._queue)))]
        if not taken:
            return False
        try:
            self._writer.write(taken)
        except Exception as error:  # whatever went wrong with these, the next ones are tried
            self._ledger.add("failed", len(taken))
            LOG.warning("exposures: %d could not be written: %s", len(taken), error)
        return True

    def _tell_of_dropped(self) -> None:
        """Log what requests have dropped; they have no time for it."""
        if (dropped := self._ledger["dropped"]) > self._told_of:
            LOG.warning(
                "exposures: %d dropped, because %d waited already: the disk or the broker is slow",
                dropped - self._told_of,
                self._most,
            )
            self._told_of = dropped

    def _close_for(self, asked: int) -> None:
        if self._writer.close():
            self._ledger["closed"] = asked

    def _adopt(self) -> None:
        """Look after processes that have ended, now and then."""
        if not self._adopted or time.monotonic() - self._adopted >= _ADOPT_S:
            self._adopted = time.monotonic()
            if lost := self._folder.adopt():
                self._lost += lost
                LOG.warning("exposures: %d were lost with a process that was killed", lost)

    @staticmethod
    def _safely(what: str, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:  # a segment that cannot be closed stays a journal, which readers read too
            LOG.warning(f"exposures: {what} failed: %s", error)
