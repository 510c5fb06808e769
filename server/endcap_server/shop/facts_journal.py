"""The journal of facts: what has changed since the catalogue was read, by product id.

A folder holds numbered segments. A segment begins with the whole state at its start and grows by records, each with
its length and a checksum, so that a reader never takes half a record. Readers in other processes look at the size of
the segment, and read what was added. When a segment has grown, the writer starts the next one with the state so far,
and says so in the last record of the old one.
"""

import fcntl
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from endcap_server.shop.columns import Array, EncodedTexts

JOURNAL_FORMAT = 1
LOCK_PATIENCE_S = 10.0
"""How long a writer waits for another one."""
COMPACT_BYTES = 16 << 20
"""Size of the records after the state from which a segment is replaced, if they are also larger than the state."""
_RECORD = struct.Struct("<IIB3x")  # length of the content, checksum of kind and content, kind
_HEAD = struct.Struct("<IQ")  # format, bytes of the state that follows
_CHANGES = struct.Struct("<IIIII")  # bytes of the column names, new ids, bytes of these, their first slot, changes
_ID_TYPES = (np.uint32, np.uint64, np.uint8)
"""Types of the new ids: lengths, hashes and bytes."""
_CHANGE_TYPES = (np.uint32, np.uint8, np.float64, np.float64)
"""Types of the changes: slot, column, value, time."""
_NAME = "journal-{:08d}"


class FactsError(Exception):
    """The facts cannot be read or written; the message says what was expected, what is there and what to do."""


class _Kind(IntEnum):
    HEAD = 1
    CHANGES = 2
    RULES = 3
    SEEN = 4
    CONTINUED = 5


@dataclass(frozen=True, eq=False)
class Changes:
    """New values of products, in their order.

    Attributes:
        columns: Names of the columns.
        ids: Product ids that are new in the journal; they get the next slots, from ``first`` on.
        first: Slot of the first new id.
        slot: uint32 [k], of each change.
        column: uint8 [k], position in ``columns``.
        value: float64 [k].
        time: float64 [k], when the value became true, in seconds since 1970.
    """

    columns: Sequence[str]
    ids: EncodedTexts
    first: int
    slot: Array
    column: Array
    value: Array
    time: Array

    def encoded(self) -> bytes:
        """The record."""
        names = json.dumps(list(self.columns)).encode()
        ids = self.ids
        values = (self.slot, self.column, self.value, self.time)
        arrays = zip((ids.lengths, ids.hashes, ids.blob, *values), (*_ID_TYPES, *_CHANGE_TYPES), strict=True)
        parts = (np.ascontiguousarray(array, dtype).tobytes() for array, dtype in arrays)
        counts = _CHANGES.pack(len(names), len(ids), len(ids.blob), self.first, len(self.slot))
        return _record(_Kind.CHANGES, counts + names + b"".join(parts))

    @classmethod
    def decoded(cls, content: bytes) -> "Changes":
        """Read the content of a record."""
        name_bytes, new, id_bytes, first, count = _CHANGES.unpack_from(content)
        place = _CHANGES.size
        names = json.loads(content[place : place + name_bytes])
        place += name_bytes
        arrays = []
        for dtype, length in zip((*_ID_TYPES, *_CHANGE_TYPES), (new, new, id_bytes, *[count] * 4), strict=True):
            arrays.append(np.frombuffer(content, dtype, length, place))
            place += arrays[-1].nbytes
        lengths, hashes, blob, *values = arrays
        return cls(names, EncodedTexts(blob, lengths.astype(np.int64), hashes), first, *values)


@dataclass(frozen=True)
class Rules:
    """All standing rules, as JSON objects; they replace those before."""

    rules: Sequence[Mapping[str, Any]]

    def encoded(self) -> bytes:
        """The record."""
        return _record(_Kind.RULES, json.dumps(list(self.rules), ensure_ascii=False).encode())


@dataclass(frozen=True)
class Seen:
    """Everything that had changed until ``time`` (seconds since 1970) is in the journal before this record."""

    time: float

    def encoded(self) -> bytes:
        """The record."""
        return _record(_Kind.SEEN, struct.pack("<d", self.time))


@dataclass(frozen=True)
class Restart:
    """The records that follow are a whole state; whatever was read before does not count."""


Entry = Changes | Rules | Seen | Restart


def _record(kind: _Kind, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(bytes([kind])))
    return _RECORD.pack(len(content), checksum, kind) + content


class JournalReader:
    """Reads a folder's journal from the beginning, and later what was added. Not thread-safe.

    Args:
        folder: Of the facts; it need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.segment = 0
        """Number of the segment that is read; 0 while there is none."""
        self.offset = 0
        """End of the last whole record that was read."""
        self.state_end = 0
        """End of the segment's state."""
        self._file: int | None = None

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the segment."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def read(self) -> Iterator[Entry]:
        """The whole records since the last call; costs a system call if there are none.

        Raises:
            FactsError: The journal is of another format.
        """
        while self._file is not None or self._open(_newest(self.folder), 0):
            assert self._file is not None
            found = os.fstat(self._file)
            if found.st_size < self.offset:
                # A write was taken back because the disk failed, or somebody has cut the file.
                self._open(self.segment, 0)
                continue
            if found.st_size > self.offset:
                following = 0
                for kind, content in self._records(found.st_size):
                    if kind == _Kind.CONTINUED:
                        following = int(struct.unpack("<Q", content)[0])
                    elif (entry := self._decoded(kind, content)) is not None:
                        yield entry
                if following and self._open(following, self._state_end(following)):
                    continue
            if found.st_nlink:
                return
            # The segment was removed before its last record was read, or somebody removed the folder.
            self.close()
            newest = _newest(self.folder)
            if not newest:
                self.segment = self.offset = 0
                yield Restart()
                return

    @property
    def torn(self) -> int:
        """Bytes after the last whole record that was read."""
        return 0 if self._file is None else os.fstat(self._file).st_size - self.offset

    def _open(self, number: int, offset: int) -> bool:
        if not number:
            return False
        try:
            opened = os.open(self.folder / _NAME.format(number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        self.close()
        self._file, self.segment, self.offset, self.state_end = opened, number, offset, offset
        return True

    def _state_end(self, number: int) -> int:
        """End of the state of a segment whose predecessor was read whole."""
        try:
            with (self.folder / _NAME.format(number)).open("rb") as file:
                head = file.read(_RECORD.size + _HEAD.size)
        except FileNotFoundError:
            return 0
        return len(head) + int(_HEAD.unpack_from(head, _RECORD.size)[1])

    def _records(self, size: int) -> Iterator[tuple[int, bytes]]:
        """Kind and content of the whole records up to ``size``."""
        assert self._file is not None
        data, place = os.pread(self._file, size - self.offset, self.offset), 0
        while place + _RECORD.size <= len(data):
            length, checksum, kind = _RECORD.unpack_from(data, place)
            content = data[place + _RECORD.size : place + _RECORD.size + length]
            if len(content) < length or zlib.crc32(content, zlib.crc32(bytes([kind]))) != checksum:
                return
            place += _RECORD.size + length
            self.offset += _RECORD.size + length
            yield kind, content

    def _decoded(self, kind: int, content: bytes) -> Entry | None:
        if kind == _Kind.CHANGES:
            return Changes.decoded(content)
        if kind == _Kind.RULES:
            return Rules(json.loads(content))
        if kind == _Kind.SEEN:
            return Seen(struct.unpack("<d", content)[0])
        if kind == _Kind.HEAD:
            number, state = _HEAD.unpack(content)
            if number != JOURNAL_FORMAT:
                raise FactsError(
                    f"{self.folder / _NAME.format(self.segment)}: expected facts of format {JOURNAL_FORMAT}, got "
                    f"{number}; write them with this version of endcap into a new folder"
                )
            self.state_end = self.offset + state
            return Restart()
        return None


def _newest(folder: Path) -> int:
    """Number of the newest segment; 0 if there is none."""
    return max(_segments(folder), default=0)


def _segments(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name[8:]) for name in names if name.startswith("journal-") and name[8:].isdigit())


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
        if before in _segments(self.folder):
            self._continue(before, reader.segment)

    def _check_damage(self) -> None:
        """Half a record at the end is what a killed writer leaves; a damaged one before others is not."""
        torn = self.reader.torn
        if torn < _RECORD.size:
            return
        path = self.folder / _NAME.format(self.reader.segment)
        with path.open("rb") as file:
            file.seek(self.reader.offset)
            length, _, _ = _RECORD.unpack(file.read(_RECORD.size))
            if _RECORD.size + length < torn and any(file.read()):
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
        for old in _segments(self.folder):
            if old < number:
                (self.folder / _NAME.format(old)).unlink(missing_ok=True)

    def _start(self, number: int, state: bytes) -> None:
        path = self.folder / _NAME.format(number)
        new = self.folder / f".{path.name}.new"
        try:
            with new.open("wb") as file:
                file.write(_record(_Kind.HEAD, _HEAD.pack(JOURNAL_FORMAT, len(state))) + state)
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
        last = _record(_Kind.CONTINUED, struct.pack("<Q", following))
        with self._opened(number) as file:
            size = os.fstat(file).st_size
            if os.pread(file, len(last), max(0, size - len(last))) != last:
                _write_all(file, last)
                os.fsync(file)

    @contextmanager
    def _opened(self, number: int) -> Iterator[int]:
        file = os.open(self.folder / _NAME.format(number), os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
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
