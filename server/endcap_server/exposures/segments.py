"""Segments of exposures: Parquet files that are closed by a rename, and the journal of the segment that is open.

The open segment is a file of JSON lines, which holds whole lines at any time. It becomes a Parquet file after so many
rows or so long. Its writer locks it: a journal without a lock is of a process that has ended, and the next writer takes
it over.
"""

import fcntl
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

_JOURNAL, _SEGMENT, _NEW = ".jsonl", ".parquet", ".new"


@dataclass(frozen=True)
class SegmentLimits:
    """When a segment is closed, and how much is kept.

    Attributes:
        rows: Rows from which a segment is closed.
        seconds: Seconds after which it is closed.
        bytes: Most bytes of all files; the oldest segments are deleted.
        days: Age from which segments are deleted.
    """

    rows: int
    seconds: float
    bytes: int
    days: float


class SegmentWriter:
    """Writes the segments of one process.

    Args:
        folder: Of all segments; several processes may write to it.
        process: Name of this process, unlike any other's.
        limits: When segments are closed and deleted.
    """

    def __init__(self, folder: Path, process: str, limits: SegmentLimits):
        self._folder, self._process, self._limits = folder, process, limits
        self._descriptor, self._path = -1, folder
        self._size = self._rows = 0
        self._number, self._opened = 0, 0.0
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._adopt()

    def write(self, lines: Sequence[bytes]) -> None:
        """Add whole lines to the open segment, all of them or none.

        Raises:
            OSError: None was added, for example because the disk is full.
        """
        if self._descriptor < 0:
            self._open()
        data = b"".join(lines)
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
        self._rows += len(lines)

    def tick(self) -> None:
        """Close the segment if it has rows enough or has been open for long enough."""
        if self._descriptor < 0:
            return
        if self._rows >= self._limits.rows or time.monotonic() - self._opened >= self._limits.seconds:
            self.close()

    def close(self) -> None:
        """Make the open journal a segment, and delete what is too much or too old."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        try:
            # On a full disk the journal stays: readers read it, and the next segment that is opened converts it.
            with suppress(OSError, ValueError):
                _convert(self._path)
        finally:
            os.close(descriptor)
            self._prune()

    def _open(self) -> None:
        self._adopt()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        path = self._folder / f"{stamp}-{self._process}-{self._number:06d}{_JOURNAL}"
        # Locked before it has the name of a journal: others take over what has no lock.
        unlocked = path.with_suffix(_NEW)
        descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        unlocked.rename(path)
        self._descriptor, self._path, self._number = descriptor, path, self._number + 1
        self._size, self._rows, self._opened = 0, 0, time.monotonic()

    def _adopt(self) -> None:
        """Close the segments of processes that have ended."""
        for journal in sorted(self._folder.glob(f"*{_JOURNAL}")):
            with suppress(OSError, ValueError):
                descriptor = os.open(journal, os.O_RDWR)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _convert(journal)
                finally:
                    os.close(descriptor)

    def _prune(self) -> None:
        oldest, total = time.time() - self._limits.days * 86400, 0
        for path in sorted(self._folder.glob(f"*{_SEGMENT}"), reverse=True):
            with suppress(OSError):
                found = path.stat()
                total += found.st_size
                if total > self._limits.bytes or found.st_mtime < oldest:
                    path.unlink()


def _convert(journal: Path) -> None:
    """Write the whole lines of a journal as a Parquet file and remove the journal; on an error it stays."""
    from pyarrow import parquet  # only where a segment is closed: it takes memory

    lines = _whole_lines(journal)
    if lines:
        new = journal.with_suffix(_NEW)
        try:
            parquet.write_table(_table(lines), new, compression="zstd")
            with new.open("rb") as file:
                os.fsync(file.fileno())
            new.replace(journal.with_suffix(_SEGMENT))
        except OSError:
            new.unlink(missing_ok=True)
            raise
    journal.unlink(missing_ok=True)


def _whole_lines(journal: Path) -> bytes:
    data = journal.read_bytes()
    return data[: data.rfind(b"\n") + 1]


def schema() -> Any:
    """The columns of a segment, as a schema of PyArrow."""
    import pyarrow as pa

    placement = pa.struct(
        {
            "title": pa.string(),
            "source": pa.string(),
            "keywords": pa.list_(pa.string()),
            "products": pa.list_(pa.string()),
            "scores": pa.list_(pa.float32()),
        }
    )
    text, whole = pa.string(), pa.int64()
    return pa.schema(
        {
            "page_id": text,
            "ensemble": text,
            "shopper": text,
            "time": pa.timestamp("us", "UTC"),
            "generation": whole,
            "query": text,
            "history": whole,
            "unknown_ids": whole,
            "placements": pa.list_(placement),
            "process": text,
            "sequence": whole,
        }
    )


def _table(lines: bytes) -> Any:
    import pyarrow as pa
    from pyarrow import json

    columns = schema()
    numbers = columns.set(columns.get_field_index("time"), pa.field("time", pa.int64()))
    options = json.ParseOptions(explicit_schema=numbers, unexpected_field_behavior="ignore")
    # A line must not be larger than a block.
    table = json.read_json(
        pa.BufferReader(lines), read_options=json.ReadOptions(block_size=1 << 24), parse_options=options
    )
    return table.cast(columns)


def read_exposures(folder: Path) -> Any:
    """All exposures of a folder, those of open segments too, as a table of PyArrow with the columns of :func:`schema`.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    import pyarrow as pa

    return pa.concat_tables([schema().empty_table(), *(read() for read in exposure_readers(folder))])


def exposure_readers(folder: Path) -> list[Callable[[], Any]]:
    """One function per segment, open ones too, that reads it as a table of PyArrow; for one segment at a time.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    from pyarrow import parquet

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder of exposures; `endcap serve` writes BUILD/{folder.name}")
    # Journals first: one that becomes a segment in between is seen as the segment.
    journals = {path.stem: lines for path in folder.glob(f"*{_JOURNAL}") if (lines := _read(path))}
    segments = sorted(folder.glob(f"*{_SEGMENT}"))
    closed = {path.stem for path in segments}
    readers: list[Callable[[], Any]] = [partial(parquet.read_table, path, schema=schema()) for path in segments]
    return readers + [partial(_table, lines) for stem, lines in sorted(journals.items()) if stem not in closed]


def _read(journal: Path) -> bytes:
    try:
        return _whole_lines(journal)
    except FileNotFoundError:
        return b""
