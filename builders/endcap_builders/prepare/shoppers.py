"""Reads the shoppers whose pages are prepared: a file of JSON lines, or a Parquet file."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from endcap_server.stages.contract import (
    MAX_HISTORY,
    MAX_ID_BYTES,
    MAX_SESSION,
    MAX_SHOPPER_BYTES,
    MAX_TEXT_CHARACTERS,
)

from endcap_builders.prepare.errors import PrepareError

_MOST_SHOWN = 3
_COLUMNS = ("shopper", "history", "session")


@dataclass(frozen=True)
class Shopper:
    """A shopper whose page is prepared.

    Attributes:
        key: As sent in SHOPPER.
        history: Product ids, oldest first.
        session: Searches, oldest first.
    """

    key: str
    history: tuple[str, ...]
    session: tuple[str, ...] = ()


@dataclass
class ShopperFile:
    """A checked file of shoppers; the shoppers are read again each time, so that a file may be large.

    Attributes:
        path: Of the file.
        problems: Why lines are left out, of the first few.
        left_out: Lines that are left out.
        repeated: Lines of shoppers that have a later one, which counts.
    """

    path: Path
    problems: list[str] = field(default_factory=list)
    left_out: int = 0
    repeated: int = 0
    _line_of: dict[int, int] = field(default_factory=dict, repr=False)

    @classmethod
    def check(cls, path: Path) -> "ShopperFile":
        """Read a file once.

        Raises:
            PrepareError: It cannot be read, or has no shopper.
        """
        file = cls(path)
        for line, found in file._lines():
            if isinstance(found, str):
                file.left_out += 1
                if len(file.problems) < _MOST_SHOWN:
                    file.problems.append(f"line {line}: {found}")
                continue
            # The hash instead of the key: millions of shoppers fit into memory.
            file.repeated += hash(found.key) in file._line_of
            file._line_of[hash(found.key)] = line
        if not file._line_of:
            seen = "; ".join(file.problems) or "an empty file"
            raise PrepareError(f"{path}: expected a shopper in each line or row, got {seen}")
        return file

    def __len__(self) -> int:
        return len(self._line_of)

    def __iter__(self) -> Iterator[Shopper]:
        """The shoppers, each once, as its last line says."""
        for line, found in self._lines():
            if isinstance(found, Shopper) and self._line_of.get(hash(found.key)) == line:
                yield found

    def _lines(self) -> Iterator[tuple[int, Shopper | str]]:
        """Number from 1, and the shopper or what is wrong."""
        rows = _parquet(self.path) if self.path.suffix == ".parquet" else _json_lines(self.path)
        try:
            for line, row in enumerate(rows, 1):
                if row is not None:
                    yield line, _shopper(row)
        except OSError as error:
            raise PrepareError(f"{self.path}: cannot be read: {error.strerror or error}") from None


def _json_lines(path: Path) -> Iterator[Any]:
    """Each line's value, or the error as a text; None for a blank line."""
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                yield None
                continue
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"expected a JSON object, got {error}"


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            if missing := {"shopper", "history"} - set(file.schema_arrow.names):
                raise PrepareError(
                    f"{path}: expected the columns shopper and history (and optionally session), "
                    f"got no {' and no '.join(sorted(missing))}"
                )
            columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
            for batch in file.iter_batches(columns=columns):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise PrepareError(f"{path}: expected a Parquet file, got {error}") from None


def _shopper(row: Any) -> Shopper | str:
    """The shopper of a row, or what is wrong with it."""
    if isinstance(row, str):
        return row
    if not isinstance(row, Mapping):
        return f"expected a JSON object, got {type(row).__name__}"
    if unknown := set(row) - set(_COLUMNS):
        return f"expected shopper, history and session, got {sorted(unknown)[0]!r}"
    key = row.get("shopper")
    if not isinstance(key, str) or not 1 <= len(key.encode(errors="replace")) <= MAX_SHOPPER_BYTES:
        return f"shopper: expected a text of 1 to {MAX_SHOPPER_BYTES} bytes, got {_short(key)}"
    history = row.get("history")
    if not _texts(history, MAX_HISTORY):
        return f"history: expected a list of at most {MAX_HISTORY} product ids, got {_short(history)}"
    if any(len(each.encode(errors="replace")) > MAX_ID_BYTES for each in history):
        return f"history: expected product ids of at most {MAX_ID_BYTES} bytes, got a longer one"
    session = row.get("session") or []
    if not _texts(session, MAX_SESSION) or any(len(each) > MAX_TEXT_CHARACTERS for each in session):
        return (
            f"session: expected at most {MAX_SESSION} texts of {MAX_TEXT_CHARACTERS} characters, got {_short(session)}"
        )
    return Shopper(key, tuple(history), tuple(session))


def _texts(value: Any, most: int) -> TypeGuard[list[str]]:
    return isinstance(value, list) and len(value) <= most and all(isinstance(each, str) for each in value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
