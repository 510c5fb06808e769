"""Checks one column of a catalogue file and brings it into the type that the rest of endcap relies on."""

import polars as pl

from endcap_builders.catalogue.schema import EVENT_TYPES, PATH_SEPARATOR, Column

# Rows shown of one kind of problem: the first few lead to the cause, a thousand equal lines hide the next problem.
ROWS_SHOWN = 3


class ColumnCheck:
    """Collects the problems of one column; ``values`` is the column in its final type once no problem was found."""

    def __init__(self, file: str, column: Column, raw: pl.Series):
        self.problems: list[str] = []
        self._place = f"{file}, column {column.name}"
        self._column = column
        self._raw = raw
        self.values = raw
        if raw.dtype == pl.Null:
            # An all-null column has no type of its own; any type will do to check its rows.
            self._raw = raw = raw.cast(_TYPE_OF_NULLS.get(column.kind, pl.String()))
        getattr(self, f"_check_{column.kind}")(raw)

    def _wrong_type(self, expected: str) -> None:
        self.problems.append(
            f"{self._place}: expected {expected}, got {self._raw.dtype} in all rows; {self._column.advice}"
        )

    def _rows(self, bad: pl.Series, expected: str) -> None:
        """Adds a problem for each row where ``bad`` (Boolean [rows]) holds; the first rows are shown."""
        rows = bad.fill_null(False).arg_true()
        for row in rows.head(ROWS_SHOWN).to_list():
            value = self._raw[row]
            got = "null" if value is None else repr(value) if isinstance(value, str) else str(value)
            self.problems.append(
                f"{self._place}, row {row}: expected {expected}, got {got[:80]}; {self._column.advice}"
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
        if self._column.required:
            self._rows(texts.is_null() | (texts.str.strip_chars() == ""), "text")
        self.values = texts.fill_null("").str.strip_chars()

    def _check_id(self, raw: pl.Series) -> None:
        if raw.dtype.is_integer():
            self._nulls(raw, "an id")
            self.values = raw.cast(pl.String)
            return
        texts = self._strings(raw)
        if texts is not None:
            self._rows(texts.is_null() | (texts.str.strip_chars() == ""), "an id")
            self.values = texts

    def _check_path(self, raw: pl.Series) -> None:
        texts = self._strings(raw)
        if texts is None:
            return
        texts = texts.fill_null("").str.strip_chars()
        parts = texts.str.split(PATH_SEPARATOR).list.eval(pl.element().str.strip_chars())
        self._rows((texts != "") & parts.list.contains(""), "a path of non-empty parts")
        self.values = parts.list.join(f" {PATH_SEPARATOR} ")

    def _check_price(self, raw: pl.Series) -> None:
        if not raw.dtype.is_numeric():
            self._wrong_type("a number")
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
        if not isinstance(raw.dtype, pl.Datetime) and raw.dtype != pl.Date:
            self._wrong_type("a timestamp")
            return
        self._nulls(raw, "a timestamp")
        zone = getattr(raw.dtype, "time_zone", None)
        # The unit first: a conversion of the zone keeps the unit.
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


def default_column(column: Column, rows: int) -> pl.Series:
    """The values of an optional column that the file does not have."""
    if column.kind == "price":
        return pl.Series(column.name, [None], dtype=pl.Float32).new_from_index(0, rows)
    value: bool | str = True if column.kind == "flag" else ""
    return pl.Series(column.name, [value]).new_from_index(0, rows)
