"""Finds and reads the Parquet files of a catalogue's tables: single files, and folders as Spark and Hive write them.

It reads with pyarrow, which supports every type of Parquet and raises exceptions for what it cannot read. polars panics
on some types (a time zone such as "+05:30", decimals of more than 38 digits) and prints a backtrace.
"""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from endcap_builders.catalogue.schema import TABLES, Column, Table

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
# Extensions of data files; other files (README.md) are no near misses of a table's name.
DATA_EXTENSIONS = (
    *("arrow", "avro", "csv", "feather", "gz", "json", "jsonl", "ndjson", "orc", "parq", "parquet", "pq", "tsv", "txt"),
    *("xls", "xlsx", "zip", "zst"),
)
NEAR = 0.8
_MAGIC = b"PAR1"


@dataclass(frozen=True)
class RawTable:
    """A table as read from its files.

    Attributes:
        place: the file or folder, relative to the catalogue.
        parts: the files, in the order of their rows, relative to the catalogue.
        starts: row of ``columns`` at which each part begins; as long as ``parts``.
        columns: the columns that the table declares, as polars series of equal length.
        names: all columns of the files, in order.
    """

    place: str
    parts: tuple[str, ...]
    starts: tuple[int, ...]
    columns: dict[str, pl.Series]
    names: tuple[str, ...]
    height: int

    def where(self, row: int) -> tuple[str, int]:
        """The file that holds ``row``, and the row in that file."""
        part = max(number for number, start in enumerate(self.starts) if start <= row)
        return self.parts[part], row - self.starts[part]


def table_files(folder: Path, table: Table, problems: list[str]) -> tuple[Path, list[Path]] | None:
    """Where ``table`` is (NAME.parquet or a folder NAME.parquet or NAME), and its files in a fixed order.

    In a folder, files at any depth count, except those with a name or folder that begins with "_" or "." (``_SUCCESS``,
    checksums), as in Spark and Hive. None if there is no such table, or ``problems`` grew.
    """
    places = [place for place in (folder / table.file, folder / table.name) if _is_place(place, table)]
    if not places:
        return None
    if len(places) > 1:
        problems.append(
            f"{table.file}: expected one place, got {' and '.join(place.name for place in places)}; remove one of them"
        )
        return None
    place = places[0]
    if place.is_file():
        return place, [place]
    files = sorted(
        path
        for path in place.rglob("*")
        if path.is_file() and not any(part[0] in "._" for part in path.relative_to(place).parts)
    )
    if not files:
        problems.append(f"{place.name}: expected Parquet files in this folder, got none; fill it or remove it")
        return None
    return place, files


def _is_place(place: Path, table: Table) -> bool:
    """Whether a place is a table; a file NAME without an extension is only a near miss."""
    return place.is_dir() or (place.name == table.file and place.is_file())


def near_misses(folder: Path) -> dict[str, str]:
    """Entries of ``folder`` whose name is nearly that of a table, with the name that was probably meant."""
    forms: dict[str, Table] = {}
    for table in TABLES:
        singular = table.name[:-3] + "y" if table.name.endswith("ies") else table.name[:-1]
        forms |= {table.name: table, singular: table}
    known = {name for table in TABLES for name in (table.file, table.name)}
    found = {}
    for entry in sorted(folder.iterdir()):
        name = entry.name.lower()
        stem, *extensions = name.split(".")
        if name[0] in "._" or (entry.name in known and (entry.is_dir() or entry.suffix)):
            continue
        if entry.is_file() and extensions and extensions[-1] not in DATA_EXTENSIONS:
            continue
        if entry.is_file():
            # Also "events-2025.parquet" and "events (1).csv": the name, then something that is no letter.
            stem = stem[: next((at for at, char in enumerate(stem) if not char.isalpha()), len(stem))]
        close = difflib.get_close_matches(stem, forms, 1, NEAR)
        if close:
            found[entry.name] = forms[close[0]].file
    return found


def describe_near_miss(name: str, meant: str) -> str:
    """The error for a file with nearly the right name."""
    stem = Path(meant).stem
    if Path(name).suffix.lower() in (".parquet", ".parq", ".pq", ""):
        advice = f"rename it, or move several files into a folder {meant}"
    else:
        advice = f"write it as Parquet, e.g. polars.read_csv({name!r}).write_parquet({meant!r}) for CSV"
    return f"{name}: expected {meant} for the {stem}, got a name that is not read; {advice}, or remove it"


def read_table(place: Path, files: Sequence[Path], table: Table, problems: list[str]) -> RawTable | None:
    """The declared columns of ``files``, which are ``place`` or below it; None if something was added to ``problems``.

    Parts of a path like ``year=2025`` are columns, as in Hive. An optional column that only some files have is null in
    the others.
    """
    before = len(problems)
    frames: list[pl.DataFrame] = []
    names: dict[str, None] = {}
    starts: list[int] = []
    parts: list[str] = []
    for path in files:
        part = str(path.relative_to(place.parent))
        frame = _read_part(path, part, place, table, names, problems)
        if frame is not None:
            starts.append(sum(earlier.height for earlier in frames))
            parts.append(part)
            frames.append(frame)
    if len(problems) > before:
        return None
    present = {name for frame in frames for name in frame.columns}
    for column in table.columns:
        for part, frame in zip(parts, frames, strict=True):
            if column.required and column.name in present and column.name not in frame.columns:
                problems.append(_missing(part, column.name, frame.columns))
    columns = {}
    for column in table.columns:
        if column.name not in present:
            continue
        series = [
            frame.select(column.name)
            if column.name in frame.columns
            else pl.DataFrame({column.name: pl.Series([None]).new_from_index(0, frame.height)})
            for frame in frames
        ]
        try:
            columns[column.name] = pl.concat(series, how="vertical_relaxed")[column.name]
        except pl.exceptions.PolarsError:
            types = Counter(str(one.dtypes[0]) for one in series)
            problems.append(
                f"{place.name}, column {column.name}: expected one type in all files, got {' and '.join(types)}; "
                "write all files with the same type"
            )
    if len(problems) > before:
        return None
    height = sum(frame.height for frame in frames)
    return RawTable(place.name, tuple(parts), tuple(starts), columns, tuple(names), height)


def missing_column(raw: RawTable, column: Column) -> str:
    """The error for a required column that no file has."""
    return _missing(raw.place, column.name, raw.names)


def _missing(place: str, name: str, names: Sequence[str]) -> str:
    plain = {other.lower().replace("_", "").replace(" ", ""): other for other in names}
    close = difflib.get_close_matches(name.replace("_", ""), plain, 1, NEAR)
    advice = f"rename {plain[close[0]]!r} to {name}" if close else "add or rename the column"
    return f"{place}, column {name}: expected in the file, got columns {', '.join(names) or '(none)'}; {advice}"


def _read_part(
    path: Path, part: str, place: Path, table: Table, names: dict[str, None], problems: list[str]
) -> pl.DataFrame | None:
    """The declared columns of one file; ``names`` collects the names of all columns."""
    keys = {}
    for folder in path.relative_to(place).parts[:-1] if path != place else ():
        key, equals, value = folder.partition("=")
        if equals:
            keys[key] = None if value == HIVE_NULL else unquote(value)
    before = len(problems)
    columns = {}
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            found = Counter(file.schema_arrow.names)
            names.update(dict.fromkeys([*found, *keys]))
            for column in table.columns:
                if found[column.name] > 1:
                    problems.append(
                        f"{part}, column {column.name}: expected once, got {found[column.name]} columns of this name; "
                        "rename or remove one"
                    )
                elif found[column.name]:
                    array = file.read(columns=[column.name])[column.name]
                    values = _to_polars(array, column, part, problems)
                    if values is not None:
                        columns[column.name] = values
            rows = file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        problems.append(_unreadable(path, part, error))
        return None
    for column in table.columns:
        if column.name in keys and column.name not in found:
            constant = pl.Series(column.name, [_key_value(keys[column.name], column.kind)])
            columns[column.name] = constant.new_from_index(0, rows)
    if len(problems) > before:
        return None
    # Without declared columns, the number of rows is lost; such a table is refused later.
    return pl.DataFrame([values.alias(name) for name, values in columns.items()])


def _unreadable(path: Path, part: str, error: Exception) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
        file.seek(max(size - len(_MAGIC), 0))
        end = file.read()
    reason = " ".join(str(error).split())[:200]
    if size == 0:
        advice = "the file is empty, write it again"
    elif start != _MAGIC:
        advice = f"it begins with {start!r} where Parquet has {_MAGIC!r}: write it again as Parquet"
    elif end != _MAGIC:
        advice = "its end is missing, write it again"
    else:
        advice = "it is damaged, write it again"
    return f"{part}: expected a readable Parquet file, got {size} bytes that do not read ({reason}); {advice}"


def _to_polars(array: pa.ChunkedArray, column: Column, part: str, problems: list[str]) -> pl.Series | None:
    """The column in polars; types that polars does not have are converted to the nearest one."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.cast(kind.value_type)
        kind = array.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        # Values are in UTC, whatever the zone; the zone only affects how they are displayed.
        array = array.cast(pa.timestamp(kind.unit, "UTC"))
    elif pa.types.is_decimal(kind):
        # Databases write whole numbers as decimals without a fraction.
        whole = kind.scale == 0 and column.kind in ("id", "count")
        array = array.cast(pa.string() if whole and column.kind == "id" else pa.int64() if whole else pa.float64())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        row, value = _bad_utf8(array)
        if row is not None:
            problems.append(
                f"{part}, column {column.name}, row {row}: expected text in UTF-8, got the bytes {value!r}; "
                "decode the text from its real encoding (Latin-1?) before it is written"
            )
            return None
    try:
        # A chunk of nulls or nested values is kept; the check of the column refuses its type.
        return pl.Series(column.name, pl.from_arrow(array))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        problems.append(
            f"{part}, column {column.name}: expected a type of columns of {column.kind}, got {array.type} in all rows; "
            f"{column.advice}"
        )
        return None


def _bad_utf8(array: pa.ChunkedArray) -> tuple[int | None, bytes]:
    """The first row that is not UTF-8, and its first bytes."""
    try:
        array.validate(full=True)
        return None, b""
    except pa.ArrowInvalid:
        binary = pa.large_binary() if pa.types.is_large_string(array.type) else pa.binary()
        for row, value in enumerate(chunk.as_py() for chunk in array.cast(binary)):
            try:
                (value or b"").decode()
            except UnicodeDecodeError as error:
                return row, value[max(error.start - 10, 0) : error.end + 10]
        raise


def _key_value(text: str | None, kind: str) -> Any:
    """A partition's value in the type of its column, or else the text, which the check of the column refuses."""
    try:
        match kind if text is not None else "":
            case "price" | "grade":
                return float(text or "")
            case "count":
                return int(text or "")
            case "flag":
                return {"true": True, "false": False}[(text or "").lower()]
            case "time":
                return datetime.fromisoformat(text or "")
            case _:
                return text
    except (ValueError, KeyError):
        return text
