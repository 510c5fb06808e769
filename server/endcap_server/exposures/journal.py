"""The journal of a process: its open segment, a file of JSON lines that holds whole lines at any time.

It becomes a Parquet file after so many rows or so long.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from endcap_server.exposures.folder import ExposureFolder
from endcap_server.exposures.ledger import Ledger
from endcap_server.exposures.log import LOG
from endcap_server.exposures.record import Numbered
from endcap_server.exposures.segments import JOURNAL, convert


@dataclass(frozen=True)
class SegmentLimits:
    """When a segment is closed, and how much is kept.

    Attributes:
        rows: Rows from which a segment is closed.
        seconds: Seconds after which it is closed.
        bytes: Most bytes of all files; the oldest ones are deleted.
        days: Age from which files are deleted.
    """

    rows: int
    seconds: float
    bytes: int
    days: float


class SegmentWriter:
    """Writes the segments of one process.

    Args:
        ledger: Of this process, in the folder of all segments; several processes may write to it.
        limits: When segments are closed and deleted.
    """

    def __init__(self, ledger: Ledger, limits: SegmentLimits):
        self._folder, self._ledger, self._limits = ExposureFolder(ledger.folder), ledger, limits
        self._descriptor, self._path = -1, Path()
        self._size = self._rows = 0
        self._opened = 0.0

    def write(self, taken: Sequence[Numbered]) -> None:
        """Add exposures to the open segment, all of them or none, and count them as written.

        Raises:
            OSError: None was added, for example because the disk is full.
        """
        data = b"".join(exposure.line(self._ledger.process, number) for number, exposure in taken)
        if self._descriptor < 0:
            self._open()
        try:
            written = os.write(self._descriptor, data)
            if written < len(data):
                written += os.write(self._descriptor, data[written:])
            if written < len(data):
                raise OSError(f"{self._path}: only {written} of {len(data)} bytes were written")
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
            raise
        self._size += len(data)
        self._rows += len(taken)
        self._ledger.add("written", len(taken))

    def tick(self) -> None:
        """Close the segment if it has rows enough or has been open for long enough."""
        old = time.monotonic() - self._opened >= self._limits.seconds
        if self._descriptor >= 0 and (old or self._rows >= self._limits.rows):
            self.close()

    def close(self) -> bool:
        """Make the open journal a segment, and delete what is too much or too old.

        Returns:
            Whether no journal of this process is left. On a full disk it stays: readers read it, and it becomes a
            segment when the next journal is opened.
        """
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        left = self._convert()
        try:
            self._folder.prune(self._limits.bytes, self._limits.days)
        except OSError as error:
            LOG.warning("exposures: old segments could not be deleted: %s", error)
        return not left

    def stop(self) -> None:
        """Nothing: it never waits."""

    def _open(self) -> None:
        self._ledger.persist()
        self._convert()
        stamp, before = time.strftime("%Y%m%dT%H%M%S", time.gmtime()), self._ledger["written"]
        path = self._folder.path / f"{stamp}-{self._ledger.process}-{before:09d}{JOURNAL}"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._path, self._size, self._rows, self._opened = path, 0, 0, time.monotonic()

    def _convert(self) -> bool:
        """Make the journals of this process segments, none of which is open; return whether one is left."""
        left = False
        for journal in self._folder.journals(self._ledger.process):
            try:
                with self._folder.locked():
                    convert(journal)
            except (OSError, ValueError) as error:
                left = True
                LOG.warning("exposures: a journal could not be made a segment, and stays one: %s", error)
        return left
