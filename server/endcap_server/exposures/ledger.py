"""What became of the exposures of one process, in a small file that outlives the process.

A process that is killed cannot report the exposures that died with it. Its counts are therefore in a file that is
mapped into memory: adding is a store without a system call, and the kernel keeps the page when the process ends. The
lock of the file tells whether the process lives.
"""

import fcntl
import mmap
import os
import threading
from collections.abc import Mapping
from pathlib import Path

LEDGER = ".ledger"
COUNTS = ("offered", "dropped", "written", "failed")
_NAMES = (*COUNTS, "closed")
_OPENING = ".opening"
_BYTES = 8 * len(_NAMES)


class Ledger:
    """The counts of a process. Thread-safe.

    * ``offered``: exposures handed to the sink; the next one's sequence number.
    * ``dropped``, ``written``, ``failed``: what became of them.
    * ``closed``: the latest request to close the journal that was followed, see `ExposureFolder.ask_to_close`.

    Args:
        folder: Of the exposures.
        process: Name of this process, unlike any other's.
    """

    def __init__(self, folder: Path, process: str):
        self.folder, self.process = folder, process
        self._lock = threading.Lock()
        self._descriptor = -1
        self._values = memoryview(bytearray(_BYTES)).cast("Q")

    def __getitem__(self, name: str) -> int:
        """The value of a count."""
        return self._values[_NAMES.index(name)]

    def __setitem__(self, name: str, value: int) -> None:
        with self._lock:
            self._values[_NAMES.index(name)] = value

    def add(self, name: str, count: int = 1) -> int:
        """Add to a count; return its value before."""
        place = _NAMES.index(name)
        with self._lock:
            before = self._values[place]
            self._values[place] = before + count
        return before

    def persist(self) -> None:
        """Keep the counts in the folder from now on; does nothing if they are there.

        Raises:
            OSError: The file cannot be written; the counts are kept in memory.
        """
        if self._descriptor >= 0 and os.fstat(self._descriptor).st_nlink:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f"{self.process}{LEDGER}"
        new = path.with_suffix(_OPENING)
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            # A store into a page without a block on disk would end the process if the disk was full.
            os.posix_fallocate(descriptor, 0, _BYTES)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            values = memoryview(mmap.mmap(descriptor, _BYTES)).cast("Q")
            with self._lock:
                values[:] = self._values
                self._values = values
            # Locked and filled before it has its name: others take an unlocked one for that of a dead process.
            new.rename(path)
        except OSError:
            os.close(descriptor)
            new.unlink(missing_ok=True)
            raise
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor

    def close(self) -> None:
        """Leave the file to others, as the end of the process does."""
        if self._descriptor >= 0:
            with self._lock:
                self._values = memoryview(bytearray(self._values)).cast("Q")
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1


def read_ledger(path: Path) -> tuple[dict[str, int], bool] | None:
    """The counts in a ledger's file, and whether its process lives; None: the file has gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        lives = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            lives = True
        data = os.pread(descriptor, _BYTES, 0)
    finally:
        os.close(descriptor)
    return dict(zip(_NAMES, memoryview(data.ljust(_BYTES, b"\0")).cast("Q"), strict=True)), lives


def lost(counts: Mapping[str, int]) -> int:
    """Exposures that were handed to the sink of a process and died with it."""
    return counts["offered"] - counts["dropped"] - counts["written"] - counts["failed"]
