"""What became of the exposures of one process, in a small file that outlives the process.

A process that is killed cannot report the exposures that died with it. Its counts are therefore in shared memory:
adding is a store without a system call, which never waits for a disk, and the memory stays when the process ends. The
folder has a copy, for the case that the machine ends, whose lock tells whether the process lives.
"""

import fcntl
import hashlib
import mmap
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

LEDGER = ".ledger"
COUNTS = ("offered", "dropped", "written", "failed")
_NAMES = (*COUNTS, "closed")
_OPENING = ".opening"
_BYTES = 8 * len(_NAMES)
_MEMORY = Path("/dev/shm")


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
        self._saved = b""

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
            os.posix_fallocate(descriptor, 0, _BYTES)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.pwrite(descriptor, bytes(self._values), 0)
            self._share()
            # Locked and filled before it has its name: others take an unlocked one for that of a dead process.
            new.rename(path)
        except OSError:
            os.close(descriptor)
            new.unlink(missing_ok=True)
            raise
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor

    def _share(self) -> None:
        """Keep the counts in shared memory; where it is full or missing, they stay in the process."""
        if isinstance(self._values.obj, mmap.mmap):
            return
        path = shared(self.folder, self.process)
        try:
            with path.open("w+b") as file:
                os.posix_fallocate(file.fileno(), 0, _BYTES)
                values = memoryview(mmap.mmap(file.fileno(), _BYTES)).cast("Q")
        except OSError:
            with suppress(OSError):
                path.unlink()
            return
        with self._lock:
            values[:] = self._values
            self._values = values

    def save(self) -> None:
        """Write the folder's copy, if there is one and the counts have changed.

        Raises:
            OSError: It cannot be written.
        """
        values = bytes(self._values)
        if self._descriptor >= 0 and values != self._saved:
            os.pwrite(self._descriptor, values, 0)
            self._saved = values

    def close(self) -> None:
        """Leave the folder's copy to others, as the end of the process does.

        Raises:
            OSError: The copy cannot be written; the shared memory stays.
        """
        if self._descriptor >= 0:
            try:
                self.save()
                with self._lock:
                    self._values = memoryview(bytearray(self._values)).cast("Q")
                shared(self.folder, self.process).unlink(missing_ok=True)
            finally:
                os.close(self._descriptor)
                self._descriptor = -1


def shared(folder: Path, process: str) -> Path:
    """The file in shared memory with the counts of a process."""
    digest = hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=6).hexdigest()
    return _MEMORY / f"endcap-exposures-{digest}-{process}"


def read_ledger(path: Path) -> tuple[dict[str, int], bool] | None:
    """The counts in a ledger of a folder, and whether its process lives; None: the file has gone."""
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
    with suppress(OSError):  # without it, the process ended as it should, or the machine has ended
        data = shared(path.parent, path.stem).read_bytes()
    return dict(zip(_NAMES, memoryview(data.ljust(_BYTES, b"\0")).cast("Q"), strict=True)), lives


def forget(path: Path) -> None:
    """Delete a ledger whose process has ended."""
    shared(path.parent, path.stem).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def lost(counts: Mapping[str, int]) -> int:
    """Exposures that were handed to the sink of a process and died with it."""
    # After the end of the machine, the copy of the counts may be older than the journal.
    return max(0, counts["offered"] - counts["dropped"] - counts["written"] - counts["failed"])
