"""Files of facts: Parquet, CSV and JSON lines."""

import csv
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from endcap_server.facts.records import Problem
from endcap_server.shop.facts_journal import FactsError

STANDARD_INPUT = "-"
_JSON_LINES = (".jsonl", ".ndjson", ".json")
Row = tuple[int, Mapping[str, Any] | Problem]


def read_file(name: str) -> Iterator[Row]:
    """The records of a file, or of the standard input: row number (for texts the line) and fields that have a value.

    Raises:
        FactsError: The file cannot be read, or is of another kind.
    """
    suffix = Path(name).suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(Path(name))
        return
    if name != STANDARD_INPUT and suffix not in (".csv", *_JSON_LINES):
        raise FactsError(f"{name}: expected a name ending in .parquet, .csv or .jsonl, or - for the standard input")
    try:
        if name == STANDARD_INPUT:
            yield from _text(sys.stdin, suffix)
            return
        with Path(name).open(encoding="utf-8-sig", newline="") as file:
            yield from _text(file, suffix)
    except (OSError, UnicodeDecodeError) as error:
        raise FactsError(f"{name}: expected a readable UTF-8 file, got {error}") from None


def _text(file: TextIO, suffix: str) -> Iterator[Row]:
    """Lines of JSON or CSV; of the standard input, the first line tells which."""
    first = next((line for line in file if line.strip()), "")
    lines = itertools.chain([first], file)
    is_json = suffix in _JSON_LINES or (not suffix and first.lstrip().startswith("{"))
    yield from _json_lines(lines) if is_json else _csv(lines)


def _json_lines(lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            yield number, Problem(number, "record", "a JSON object", f"text that is not JSON ({error})")
            continue
        if isinstance(fields, dict):
            yield number, _given(fields)
        else:
            yield number, Problem(number, "record", "a JSON object", repr(fields)[:80])


def _csv(lines: Iterable[str]) -> Iterator[Row]:
    reader = csv.DictReader(lines, strict=True)
    try:
        for fields in reader:
            # Too many values come under the name None, and those that are missing have the value None.
            if None in fields or None in fields.values():
                count, wanted = len(fields) - 1 + len(fields.get(None, [""])), len(reader.fieldnames or ())
                row = reader.line_num
                yield row, Problem(row, "record", f"{wanted} values, as the first line has names", f"{count} or fewer")
                continue
            yield reader.line_num, _given(fields)
    except csv.Error as error:
        yield reader.line_num, Problem(reader.line_num, "record", "a line of CSV", str(error))


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise FactsError(f"{path}: Parquet needs pyarrow; install it with pip install 'endcap[facts]'") from None
    try:
        with pq.ParquetFile(path) as file:
            numbers = itertools.count(1)
            for batch in file.iter_batches():
                yield from ((next(numbers), _given(fields)) for fields in batch.to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise FactsError(f"{path}: expected a Parquet file, got {error}") from None


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that have a value; CSV has empty texts for the others."""
    return {name: value for name, value in fields.items() if value is not None and value != ""}
