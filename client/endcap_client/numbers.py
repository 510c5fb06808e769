"""Numbers on the command line: argparse types that refuse values out of range, with one sentence and exit code 2.

All commands of `endcap`, in all packages, use these types.
"""

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def whole(low: int, high: int) -> Callable[[str], int]:
    """A type for whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {_shown(text)}")
        return value

    return read


def number(low: float, high: float, *, above: bool = False) -> Callable[[str], float]:
    """A type for finite numbers from `low` to `high`, or, if `above`, for those above `low`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (above and value == low):
            start = "above" if above else "from"
            raise argparse.ArgumentTypeError(f"expected a number {start} {low:.12g} to {high:.12g}, got {_shown(text)}")
        return value

    return read


def share(text: str) -> float:
    """A type for shares above 0 and up to 1, written as 5% or 0.05."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share above 0 and at most 100%, such as 5%, got {_shown(text)}")
    return value


def listed(one: Callable[[str], Number]) -> Callable[[str], tuple[Number, ...]]:
    """A type for distinct numbers, separated by commas, each of the type `one`; in ascending order."""

    def read(text: str) -> tuple[Number, ...]:
        return tuple(sorted({one(part) for part in text.split(",")}))

    return read


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


count = whole(1, 1_000_000)
"""How many of something."""
count_or_none = whole(0, 1_000_000)
"""The same, with 0 for none, all, or automatic, as the option says."""
generation = whole(0, 2**31 - 1)
"""A generation of models."""
port = whole(0, 65_535)
"""A TCP port; 0: any free one."""
seed = whole(0, 2**32 - 1)
"""A seed for NumPy."""
milliseconds = whole(1, 2**31 - 1)
"""Milliseconds in the range of BUDGET_MS: INT32."""
seconds = number(0, 86_400, above=True)
"""A time of at most a day."""
