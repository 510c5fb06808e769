"""Lines over days with their intervals, as places in a picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

WIDTH, HEIGHT = 720.0, 260.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 12.0, 26.0
MOST_LINES = 6
_TICKS = 4
_MOST_DAYS_NAMED = 7


@dataclass(frozen=True)
class Dot:
    """One day of a line: its place, and its value in words."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Line:
    """A line: its name, the points of its path, those of its interval ("" without one), and its dots."""

    name: str
    path: str
    band: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Chart:
    """A chart of WIDTH x HEIGHT; ticks have a place and a text."""

    lines: tuple[Line, ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_ticks: tuple[tuple[float, str], ...]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = _LEFT


def chart(rows: Sequence[Mapping[str, Any]], by: str, outcome: str) -> Chart | None:
    """Rates per 100 by day, a line for each group with most views; None without any day.

    Args:
        rows: Of a report of outcomes: `day`, `views`, the group under `by`, and `outcome` with value, low and high.
        by: The column of the group.
        outcome: clicks, carts or purchases.
    """
    views: dict[Any, int] = {}
    for row in rows:
        views[row[by]] = views.get(row[by], 0) + row["views"]
    groups = sorted(views, key=lambda group: (-views[group], str(group)))[:MOST_LINES]
    shown = [row for row in rows if row[by] in groups]
    days = sorted({row["day"] for row in shown})
    if not days:
        return None
    # An interval of few views must not flatten the lines.
    largest = max(100 * row[outcome].get("value", 0.0) for row in shown)
    high = min(2 * largest, max(100 * row[outcome].get("high", row[outcome].get("value", 0.0)) for row in shown))
    step_y = _step(high or 1.0)
    scale = _Scale(days, step_y * max(1, math.ceil(high / step_y - 1e-9)))
    lines = [_line(group, [row for row in shown if row[by] == group], outcome, scale) for group in groups]
    step = max(1, -(-len(days) // _MOST_DAYS_NAMED))
    return Chart(
        tuple(lines),
        tuple((scale.y(value), f"{value:g}") for value in _multiples(step_y, scale.high)),
        tuple((scale.x(day), day[5:]) for day in days[::step]),
    )


def _step(high: float) -> float:
    """A round number of which about `_TICKS` reach `high`."""
    size = 10 ** math.floor(math.log10(high / _TICKS))
    return next(size * each for each in (1, 2, 2.5, 5, 10) if size * each * _TICKS >= high)


def _multiples(step: float, high: float) -> list[float]:
    return [step * number for number in range(round(high / step) + 1)]


@dataclass(frozen=True)
class _Scale:
    days: list[str]
    high: float

    def x(self, day: str) -> float:
        first, last = (date.fromisoformat(each).toordinal() for each in (self.days[0], self.days[-1]))
        share = (date.fromisoformat(day).toordinal() - first) / max(1, last - first) if last > first else 0.5
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = min(1.0, value / self.high)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)


def _line(group: Any, rows: Sequence[Mapping[str, Any]], outcome: str, scale: _Scale) -> Line:
    name = str(group) or "(none)"
    ordered = sorted(rows, key=lambda row: row["day"])
    dots, upper, lower = [], [], []
    for row in ordered:
        rate = {key: 100 * value for key, value in row[outcome].items() if key != "count"}
        x, value = scale.x(row["day"]), rate.get("value", 0.0)
        interval = f" [{rate['low']:.2f}, {rate['high']:.2f}]" if "low" in rate else ""
        dots.append(Dot(x, scale.y(value), f"{name}, {row['day']}: {value:.2f}{interval} per 100"))
        if interval:
            upper.append(f"{x},{scale.y(rate['high'])}")
            lower.append(f"{x},{scale.y(rate['low'])}")
    path = " ".join(f"{dot.x},{dot.y}" for dot in dots)
    return Line(name, path, " ".join([*upper, *reversed(lower)]), tuple(dots))
