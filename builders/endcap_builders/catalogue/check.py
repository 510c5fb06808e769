"""Checks one column of a catalogue file and converts it to the type that endcap uses."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta

import polars as pl
from endcap_server.shop.text import plain_text

from endcap_builders.catalogue.schema import EVENT_TYPES, PATH_SEPARATOR, Column

# Rows shown per kind of problem: the first few show the cause, more would hide the next problem.
ROWS_SHOWN = 3
# Events outside these years have a wrong unit, or a value that stands for "unknown".
FIRST_YEAR, END_YEAR = 1980, 2100
_PER_SECOND = {"ms": 10**3, "us": 10**6, "ns": 10**9}
_UNITS = {1: "seconds", 10**3: "milliseconds", 10**6: "microseconds", 10**9: "nanoseconds"}
_EPOCH = datetime(1970, 1, 1)
_FIRST, _END = ((datetime(year, 1, 1) - _EPOCH).total_seconds() for year in (FIRST_YEAR, END_YEAR))


class ColumnCheck:
    """Collects the problems of one column; without problems, ``values`` is the column in its final type.

    Args:
        place: the file or folder of the column, for messages about the whole column.
        where: the file of a row, and the row in it, for messages about a row.
    """

    def __init__(self, place: str, column: Column, raw: pl.Series, where: Callable[[int], tuple[str, int]]):
        self.problems: list[str] = []
        self._place = place
        self._where = where
        self._column = column
        self._raw = raw
        self.values = raw
        if raw.dtype == pl.Null:
            # An all-null column has no type; any type can be used to check its rows.
            self._raw = raw = raw.cast(_TYPE_OF_NULLS.get(column.kind, pl.String()))
        getattr(self, f"_check_{column.kind}")(raw)

    def _wrong_type(self, expected: str, advice: str = "") -> None:
        """Refuses the type of the whole column; shows its first value as a hint to the cause."""
        values = self._raw.drop_nulls()
        example = f" (such as {_shown(values[0])})" if len(values) else ""
        self.problems.append(
            f"{self._place}, column {self._column.name}: expected {expected}, got {self._raw.dtype} in all rows"
            f"{example}; {advice or self._column.advice}"
        )

    def _rows(self, bad: pl.Series, expected: str, advice: str = "", got: Callable[[int], str] | None = None) -> None:
        """Adds a problem for each row where ``bad`` (Boolean [rows]) holds; the first rows are shown."""
        rows = bad.fill_null(False).arg_true()
        for row in rows.head(ROWS_SHOWN).to_list():
            file, row_there = self._where(row)
            self.problems.append(
                f"{file}, column {self._column.name}, row {row_there}: expected {expected}, got "
                f"{got(row) if got else _shown(self._raw[row])}; {advice or self._column.advice}"
            )
        if len(rows) > ROWS_SHOWN:
            self.problems[-1] += f" (and {len(rows) - ROWS_SHOWN} more rows like this)"

    def _nulls(self, raw: pl.Series, expected: str) -> None:
        if self._column.required:
            self._rows(raw.is_null(), expected)

    def _strings(self, raw: pl.Series) -> pl.Series | None:
        if raw.dtype in (pl.Categorical, pl.Enum):
            raw = raw.cast(pl.String)
        if raw.dtype != pl.String:
            self._wrong_type("text")
            return None
        return raw

    def _check_text(self, raw: pl.Series) -> None:
        texts = self._strings(raw)
        if texts is None:
            return
        plain = _plain(texts)
        if self._column.required:
            self._rows(plain == "", "text")
        self.values = plain

    def _check_id(self, raw: pl.Series) -> None:
        if raw.dtype.is_integer():
            self._nulls(raw, "an id")
            self.values = raw.cast(pl.String)
            return
        if raw.dtype.is_float():
            self._wrong_type(
                "text or whole numbers",
                "pandas turns whole numbers into floats where one is missing: drop rows without an id, then convert "
                "the column to int64",
            )
            return
        texts = self._strings(raw)
        if texts is None:
            return
        self._rows(texts.is_null() | (texts.str.strip_chars() == ""), "an id")
        if self._column.most_bytes is not None:
            sizes = texts.str.len_bytes()
            self._rows(
                sizes > self._column.most_bytes,
                f"an id of at most {self._column.most_bytes} bytes, as requests may hold",
                "shorten the ids, in every file alike",
                lambda row: f"{sizes[row]} bytes ({texts[row][:20]!r}...)",
            )
        self.values = texts

    def _check_path(self, raw: pl.Series) -> None:
        texts = self._strings(raw)
        if texts is None:
            return
        texts = _plain(texts)
        parts = texts.str.split(PATH_SEPARATOR).list.eval(pl.element().str.strip_chars())
        self._rows((texts != "") & parts.list.contains(""), "a path of non-empty parts")
        self.values = parts.list.join(f" {PATH_SEPARATOR} ")

    def _check_price(self, raw: pl.Series) -> None:
        if not raw.dtype.is_numeric():
            advice = ""
            if raw.dtype == pl.String:
                values = raw.drop_nulls()
                number = re.search(r"\d+(?:[.,]\d+)*", values[0]) if len(values) else None
                advice = (
                    "store numbers alone, without currency or separators of thousands"
                    + (f" ({number.group()!r} of {_shown(values[0])} as a number)" if number else "")
                    + ", all prices in one currency"
                )
            self._wrong_type("a number", advice)
            return
        prices = raw.cast(pl.Float32)
        self._rows(~prices.is_finite() | (prices < 0), "a finite price of 0 or more")
        self.values = prices

    def _check_flag(self, raw: pl.Series) -> None:
        if raw.dtype != pl.Boolean:
            self._wrong_type("true or false")
            return
        self.values = raw.fill_null(True)

    def _check_time(self, raw: pl.Series) -> None:
        if raw.dtype == pl.Date:
            raw = raw.cast(pl.Datetime("ms"))
        if not isinstance(raw.dtype, pl.Datetime):
            self._wrong_type("a timestamp", _time_advice(raw))
            return
        self._nulls(raw, "a timestamp")
        unit, zone = raw.dtype.time_unit, raw.dtype.time_zone
        # Compare integers: distant years cannot be represented as dates, or in another unit.
        ticks, per_second = raw.to_physical(), _PER_SECOND[unit]
        self._rows(
            (ticks < int(_FIRST) * per_second) | (ticks >= int(_END) * per_second),
            f"a time of the years {FIRST_YEAR} to {END_YEAR - 1}",
            "write times in the unit that the column says, and leave events of unknown time out",
            got=lambda row: _far_time(ticks[row] / per_second),
        )
        if self.problems:
            return
        # Convert the unit first: a conversion of the zone keeps it.
        times = raw.cast(pl.Datetime("us", zone))
        self.values = times.dt.convert_time_zone("UTC") if zone else times.dt.replace_time_zone("UTC")

    def _check_event(self, raw: pl.Series) -> None:
        texts = self._strings(raw)
        if texts is not None:
            self._rows(texts.is_null() | ~texts.is_in(EVENT_TYPES), f"one of {', '.join(EVENT_TYPES)}")
            self.values = texts

    def _check_count(self, raw: pl.Series) -> None:
        if not raw.dtype.is_integer():
            self._wrong_type("a whole number")
            return
        self._rows(raw.is_null() | (raw < 1), "a count of 1 or more")
        self.values = raw.cast(pl.Int64, strict=False)

    def _check_grade(self, raw: pl.Series) -> None:
        if not raw.dtype.is_numeric():
            self._wrong_type("a number")
            return
        grades = raw.cast(pl.Float32)
        self._rows(grades.is_null() | ~grades.is_finite(), "a finite number")
        self.values = grades


_TYPE_OF_NULLS: dict[str, pl.DataType] = {
    "price": pl.Float32(),
    "flag": pl.Boolean(),
    "time": pl.Datetime("us"),
    "count": pl.Int64(),
    "grade": pl.Float32(),
}


def _shown(value: object) -> str:
    """A value as a message shows it."""
    return "null" if value is None else (repr(value) if isinstance(value, str) else str(value))[:80]


def _is_plausible(seconds: float) -> bool:
    return _FIRST <= seconds < _END


def _date(seconds: float) -> str:
    return f"{_EPOCH + timedelta(seconds=int(seconds)):%Y-%m-%d %H:%M:%S}"


def _far_time(seconds: float) -> str:
    """Describes a time out of range, and the time in another unit, if that is plausible."""
    got = f"the year {1970 + int(seconds // 31_556_952)}"
    if seconds == 0:
        return f"{_date(0)}, which often stands for an unknown time"
    for factor, name in list(_UNITS.items())[1:]:
        if _is_plausible(seconds / factor):
            return f"{got} ({name} stored as seconds? divided by {factor:,} it is {_date(seconds / factor)})"
        if _is_plausible(seconds * factor):
            return f"{got} (seconds stored as {name}? times {factor:,} it is {_date(seconds * factor)})"
    return got


def _time_advice(raw: pl.Series) -> str:
    """Advice for a column of times with another type."""
    values = raw.drop_nulls()
    if raw.dtype.is_numeric() and len(values):
        for factor, name in _UNITS.items():
            if _is_plausible(float(values[0]) / factor):
                return (
                    f"these are {name} since 1970 ({values[0]} is {_date(float(values[0]) / factor)} UTC)? "
                    "Convert them to a Parquet timestamp, e.g. with polars.from_epoch"
                )
    if raw.dtype == pl.String:
        return "parse the text into a Parquet timestamp, e.g. with polars' str.to_datetime"
    return ""


def default_column(column: Column, rows: int) -> pl.Series:
    """The values of an optional column that the file does not have."""
    if column.kind == "price":
        return pl.Series(column.name, [None], dtype=pl.Float32).new_from_index(0, rows)
    value: bool | str = True if column.kind == "flag" else ""
    return pl.Series(column.name, [value]).new_from_index(0, rows)


def _plain(texts: pl.Series) -> pl.Series:
    """Texts, normalised as in requests; "" for null."""
    return texts.fill_null("").map_elements(plain_text, return_dtype=pl.String)
