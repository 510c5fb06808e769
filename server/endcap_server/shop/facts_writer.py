"""Writes the journal of facts (`facts_journal`): one process at a time, on the disk before it is acknowledged."""

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from endcap_server.shop.facts_journal import (
    HEAD,
    JOURNAL_FORMAT,
    RECORD,
    FactsError,
    JournalReader,
    Kind,
    record,
    segment_name,
    segments,
)

LOCK_PATIENCE_S = 10.0
"""How long a writer waits for another one."""
COMPACT_BYTES = 16 << 20
"""Size of the records after the state from which a segment is replaced, if they are also larger than the state."""


class JournalWriter:
    """Adds records to a folder's journal. One process writes at a time.

    Args:
        folder: Of the facts; made if missing.
        what: What writes, for the error of the next writer.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.folder, self._what = folder, what
        self.reader = JournalReader(folder)

    @contextmanager
    def locked(self, patience_s: float = LOCK_PATIENCE_S, name: str = "lock") -> Iterator[None]:
        """Keep others with a lock of the same name out.

        Raises:
            FactsError: Another one holds the lock for longer than ``patience_s``, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FactsError(f"{self.folder}: expected a folder to write facts into, got {error}") from None
        try:
            self._take(lock, time.monotonic() + patience_s)
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()}, {self._what}".encode(), 0)
            yield
        finally:
            os.close(lock)

    def _take(self, lock: int, until_s: float) -> None:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() < until_s:
                    time.sleep(0.005)
                    continue
                holder = os.pread(lock, 200, 0).decode(errors="replace") or "another process"
                raise FactsError(
                    f"{self.folder}: expected to be the only writer, but {holder} is writing; wait until it has ended"
                ) from None
            return

    def repair(self, state: bytes) -> None:
        """Remove what a killed writer left of a record; make the first segment. Call it after reading, under the lock.

        Raises:
            FactsError: A record in the middle of the journal is damaged, or the folder cannot be written.
        """
        reader = self.reader
        if not reader.segment:
            self._start(1, state)
            return
        self._check_damage()
        if reader.torn:
            with self._opened(reader.segment) as file:
                os.ftruncate(file, reader.offset)
                os.fsync(file)
        before = reader.segment - 1
        if before in segments(self.folder):
            self._continue(before, reader.segment)

    def _check_damage(self) -> None:
        """Half a record at the end is what a killed writer leaves; a damaged one before others is not."""
        torn = self.reader.torn
        if torn < RECORD.size:
            return
        path = self.folder / segment_name(self.reader.segment)
        with path.open("rb") as file:
            file.seek(self.reader.offset)
            length, _, _ = RECORD.unpack(file.read(RECORD.size))
            if RECORD.size + length < torn and any(file.read()):
                raise FactsError(
                    f"{path}: expected whole records, got a damaged one at byte {self.reader.offset} and more after; "
                    "restore the file from a backup, or cut it at that byte and set the facts again"
                )

    def append(self, records: bytes) -> None:
        """Add whole records, and return when they are on disk.

        Raises:
            FactsError: The disk is full, or the write failed; nothing was added.
        """
        with self._opened(self.reader.segment) as file:
            size = os.fstat(file).st_size
            try:
                _write_all(file, records)
                os.fsync(file)
            except OSError as error:
                with suppress(OSError):
                    os.ftruncate(file, size)
                raise FactsError(
                    f"{self.folder}: expected to add {len(records)} bytes of facts, got {error}; nothing of this was "
                    "taken: free space, then send it again"
                ) from None

    @property
    def has_grown(self) -> bool:
        """Whether the segment should be replaced."""
        added = self.reader.offset - self.reader.state_end
        return added > max(COMPACT_BYTES, self.reader.state_end)

    def compact(self, state: bytes) -> None:
        """Start the next segment with a whole state; call it after reading everything, under the lock."""
        number = self.reader.segment
        self._start(number + 1, state)
        self._continue(number, number + 1)
        for old in segments(self.folder):
            if old < number:
                (self.folder / segment_name(old)).unlink(missing_ok=True)

    def _start(self, number: int, state: bytes) -> None:
        path = self.folder / segment_name(number)
        new = self.folder / f".{path.name}.new"
        try:
            with new.open("wb") as file:
                file.write(record(Kind.HEAD, HEAD.pack(JOURNAL_FORMAT, len(state))) + state)
                file.flush()
                os.fsync(file.fileno())
            new.chmod(0o600)
            new.replace(path)
            _sync_folder(self.folder)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise FactsError(f"{self.folder}: expected to write {path.name}, got {error}; free space") from None

    def _continue(self, number: int, following: int) -> None:
        """End a segment, unless it has its last record already."""
        last = record(Kind.CONTINUED, struct.pack("<Q", following))
        with self._opened(number) as file:
            size = os.fstat(file).st_size
            if os.pread(file, len(last), max(0, size - len(last))) != last:
                _write_all(file, last)
                os.fsync(file)

    @contextmanager
    def _opened(self, number: int) -> Iterator[int]:
        file = os.open(self.folder / segment_name(number), os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            yield file
        finally:
            os.close(file)


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
