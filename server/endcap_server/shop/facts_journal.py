"""The journal of facts: what has changed since the catalogue was read, by product id.

A folder holds numbered segments. A segment begins with the whole state at its start and grows by records, each with
its length and a checksum, so that a reader never takes half a record. Readers in other processes look at the size of
the segment, and read what was added. When a segment has grown, the writer starts the next one with the state so far,
and says so in the last record of the old one.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from endcap_server.shop.columns import Array, EncodedTexts

JOURNAL_FORMAT = 1
RECORD = struct.Struct("<IIB3x")  # length of the content, checksum of kind and content, kind
HEAD = struct.Struct("<IQ")  # format, bytes of the state that follows
_CHANGES = struct.Struct("<IIIII")  # bytes of the column names, new ids, bytes of these, their first slot, changes
_ID_TYPES = (np.uint32, np.uint64, np.uint8)
"""Types of the new ids: lengths, hashes and bytes."""
_CHANGE_TYPES = (np.uint32, np.uint8, np.float64, np.float64)
"""Types of the changes: slot, column, value, time."""


class FactsError(Exception):
    """The facts cannot be read or written; the message says what was expected, what is there and what to do."""


class Kind(IntEnum):
    """Of a record."""

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
        return record(Kind.CHANGES, counts + names + b"".join(parts))

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
        return record(Kind.RULES, json.dumps(list(self.rules), ensure_ascii=False).encode())


@dataclass(frozen=True)
class Seen:
    """Everything that had changed until ``time`` (seconds since 1970) is in the journal before this record."""

    time: float

    def encoded(self) -> bytes:
        """The record."""
        return record(Kind.SEEN, struct.pack("<d", self.time))


@dataclass(frozen=True)
class Restart:
    """The records that follow are a whole state; whatever was read before does not count."""


Entry = Changes | Rules | Seen | Restart


def record(kind: Kind, content: bytes) -> bytes:
    """A whole record."""
    checksum = zlib.crc32(content, zlib.crc32(bytes([kind])))
    return RECORD.pack(len(content), checksum, kind) + content


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
                    if kind == Kind.CONTINUED:
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
            opened = os.open(self.folder / segment_name(number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        self.close()
        self._file, self.segment, self.offset, self.state_end = opened, number, offset, offset
        return True

    def _state_end(self, number: int) -> int:
        """End of the state of a segment whose predecessor was read whole."""
        try:
            with (self.folder / segment_name(number)).open("rb") as file:
                head = file.read(RECORD.size + HEAD.size)
        except FileNotFoundError:
            return 0
        return len(head) + int(HEAD.unpack_from(head, RECORD.size)[1])

    def _records(self, size: int) -> Iterator[tuple[int, bytes]]:
        """Kind and content of the whole records up to ``size``."""
        assert self._file is not None
        data, place = os.pread(self._file, size - self.offset, self.offset), 0
        while place + RECORD.size <= len(data):
            length, checksum, kind = RECORD.unpack_from(data, place)
            content = data[place + RECORD.size : place + RECORD.size + length]
            if len(content) < length or zlib.crc32(content, zlib.crc32(bytes([kind]))) != checksum:
                return
            place += RECORD.size + length
            self.offset += RECORD.size + length
            yield kind, content

    def _decoded(self, kind: int, content: bytes) -> Entry | None:
        if kind == Kind.CHANGES:
            return Changes.decoded(content)
        if kind == Kind.RULES:
            return Rules(json.loads(content))
        if kind == Kind.SEEN:
            return Seen(struct.unpack("<d", content)[0])
        if kind == Kind.HEAD:
            number, state = HEAD.unpack(content)
            if number != JOURNAL_FORMAT:
                raise FactsError(
                    f"{self.folder / segment_name(self.segment)}: expected facts of format {JOURNAL_FORMAT}, got "
                    f"{number}; write them with this version of endcap into a new folder"
                )
            self.state_end = self.offset + state
            return Restart()
        return None


def _newest(folder: Path) -> int:
    """Number of the newest segment; 0 if there is none."""
    return max(segments(folder), default=0)


def segment_name(number: int) -> str:
    """File name of a segment."""
    return f"journal-{number:08d}"


def segments(folder: Path) -> list[int]:
    """Numbers of the segments of a folder, ascending."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name[8:]) for name in names if name.startswith("journal-") and name[8:].isdigit())
