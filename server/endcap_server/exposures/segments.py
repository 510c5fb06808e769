"""Segments of exposures: Parquet files, made of journals of JSON lines, and read as tables of PyArrow."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

JOURNAL, SEGMENT, NEW = ".jsonl", ".parquet", ".new"


def convert(journal: Path) -> None:
    """Write the whole lines of a journal as a segment and remove the journal.

    Raises:
        OSError: The segment cannot be written; the journal stays.
        ValueError: The journal has a line that is no exposure; it stays.
    """
    if lines := whole_lines(journal):
        write_segment(_table(lines), journal.with_suffix(SEGMENT))
    journal.unlink(missing_ok=True)


def write_segment(table: Any, path: Path) -> None:
    """Write a segment, under another name first.

    Raises:
        OSError: It cannot be written; a segment of this name stays as it was.
    """
    from pyarrow import parquet  # only where a segment is closed: it takes memory

    new = path.with_suffix(NEW)
    try:
        parquet.write_table(table, new, compression="zstd")
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def whole_lines(journal: Path) -> bytes:
    """The lines of a journal; the process may have been killed while it wrote the last one.

    Raises:
        OSError: It cannot be read.
    """
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

    A segment that was deleted or erased meanwhile has no rows.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder of exposures; `endcap serve` writes BUILD/{folder.name}")
    # Journals first: one that becomes a segment in between is seen as the segment.
    journals = {path.stem: lines for path in folder.glob(f"*{JOURNAL}") if (lines := _lines(path))}
    segments = sorted(folder.glob(f"*{SEGMENT}"))
    closed = {path.stem for path in segments}
    readers: list[Callable[[], Any]] = [partial(_read, path) for path in segments]
    return readers + [partial(_table, lines) for stem, lines in sorted(journals.items()) if stem not in closed]


def _read(segment: Path) -> Any:
    from pyarrow import parquet

    try:
        return parquet.read_table(segment, schema=schema())
    except FileNotFoundError:
        return schema().empty_table()


def _lines(journal: Path) -> bytes:
    try:
        return whole_lines(journal)
    except FileNotFoundError:
        return b""
