"""The shoppers of a catalogue's events: found by what they bought, and when they bought it."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path

import numpy as np
import polars as pl
from endcap_builders.behaviour.log import EventLog
from endcap_builders.catalogue.files import table_files
from endcap_builders.catalogue.schema import EVENTS
from endcap_server.shop.columns import Array
from endcap_server.shop.store import ItemStore

MOST_HISTORY = 200
"""Latest products of a shopper that a request is sent with."""
_MOST_EVENTS = 200_000
"""Events of found products that are looked at while a person types: a bound on the time."""


@dataclass(frozen=True)
class Shopper:
    """A shopper of the events.

    Attributes:
        name: user_id.
        history: rows of the products bought or viewed, oldest first, each once.
        bought: row -> days on which it was bought, days since 1970, ascending.
        today: day of the last event of the whole log.
    """

    name: str
    history: tuple[int, ...]
    bought: dict[int, tuple[int, ...]]
    today: int


class Shoppers:
    """All shoppers of a log of events, whose users are sorted."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._number = {name: number for number, name in enumerate(log.users)}
        self._start = np.searchsorted(log.shopper, np.arange(len(log.users) + 1))

    @classmethod
    def read(cls, catalogue: Path, store: ItemStore) -> "Shoppers | None":
        """Read the events of a catalogue folder; None if it has none."""
        _, files = table_files(catalogue, EVENTS, []) or (None, [])
        if not files:
            return None
        events = (
            pl.scan_parquet(files)
            .select(
                pl.col("user_id").cast(pl.String),
                pl.col("product_id").cast(pl.String),
                pl.col("timestamp"),
                pl.col("type").cast(pl.String),
            )
            .collect()
        )
        return cls(EventLog.read(events, store)) if events.height else None

    def __len__(self) -> int:
        return len(self._log.users)

    @cached_property
    def _of_product(self) -> tuple[Array, Array]:
        """Shoppers of the purchases, sorted by product: int64 [k]; where each product begins: int64 [n + 1]."""
        rows, shoppers = self._log.row[self._log.bought], self._log.shopper[self._log.bought]
        order = np.argsort(rows, kind="stable")
        return shoppers[order], np.searchsorted(rows[order], np.arange(self._log.products + 1))

    def get(self, name: str) -> Shopper | None:
        """A shopper by user_id."""
        number = self._number.get(name)
        if number is None:
            return None
        part = slice(int(self._start[number]), int(self._start[number + 1]))
        rows, days, bought = (each[part].tolist() for each in (self._log.row, self._log.day, self._log.bought))
        days_of: dict[int, set[int]] = {}
        for row, day, is_bought in zip(rows, days, bought, strict=True):
            if is_bought:
                days_of.setdefault(row, set()).add(day)
        # The latest mention of a product counts.
        history = tuple(reversed(dict.fromkeys(reversed(rows))))
        return Shopper(
            name,
            history[-MOST_HISTORY:],
            {row: tuple(sorted(found)) for row, found in days_of.items()},
            int(self._log.day.max()),
        )

    def who_bought(self, rows: Sequence[int], count: int) -> list[tuple[str, int]]:
        """Shoppers who bought any of these products, and how many purchases of them each made; most first."""
        buyers, start = self._of_product
        parts, taken = [], 0
        for row in rows:
            part = buyers[start[row] : start[row + 1]]
            parts.append(part)
            taken += len(part)
            if taken > _MOST_EVENTS:
                break
        if not taken:
            return []
        numbers, times = np.unique(np.concatenate(parts), return_counts=True)
        best = np.lexsort((numbers, -times))[:count]
        return [(self._log.users[int(numbers[each])], int(times[each])) for each in best]

    def named(self, text: str, count: int) -> list[str]:
        """Shoppers whose user_id begins with a text."""
        first = bisect_left(self._log.users, text)
        return list(takewhile(lambda name: name.startswith(text), self._log.users[first : first + count]))

    def sample(self, count: int) -> list[str]:
        """Shoppers spread evenly over all of them; always the same ones."""
        places = np.linspace(0, len(self) - 1, min(count, len(self))).astype(int)
        return [self._log.users[place] for place in places.tolist()]
