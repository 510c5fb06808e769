"""Facts as a running server sees them: stock, prices and standing rules over the item store of a build."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from endcap_server.shop.columns import Array, find_encoded
from endcap_server.shop.facts_journal import Changes, Entry, FactsError, JournalReader, Rules, Seen
from endcap_server.shop.standing_rules import NOTHING_STANDS, Standing, StandingRule, read_rules
from endcap_server.shop.store import ItemStore

FOLDER_VARIABLE = "ENDCAP_FACTS_DIR"
FOLDER = "facts"
IN_STOCK, PRICE = "in_stock", "price"
COLUMNS = (IN_STOCK, PRICE)
"""Columns that every shop has. ``in_stock`` is the share of a product's variants that is in stock: 0 is sold out."""
_SPREAD = (5, 95)
"""Percentiles of a column between which products are told apart; what is beyond is as good as these."""


def facts_folder(build: Path) -> Path:
    """``$ENDCAP_FACTS_DIR``, or the folder ``facts`` of a build."""
    configured = os.environ.get(FOLDER_VARIABLE)
    return Path(configured) if configured else build / FOLDER


@dataclass(frozen=True, eq=False)
class NumericColumn:
    """A column of the shop's own, such as the margin: ``values`` float32 [n], NaN unknown."""

    values: Array

    @cached_property
    def scaled(self) -> Array:
        """Where each product stands between the low and the high values: float32 [n], 0..1; 0 if unknown."""
        known = self.values[~np.isnan(self.values)]
        low, high = np.percentile(known, _SPREAD) if len(known) else (0.0, 0.0)
        if low == high:
            # Nothing between the percentiles: more than the common value is high.
            scaled = (self.values > low).astype(np.float32)
        else:
            scaled = np.clip((self.values - low) / (high - low), 0, 1).astype(np.float32)
        return np.nan_to_num(scaled)


@dataclass(frozen=True, eq=False)
class FactsNow:
    """Facts at one moment; n products of the store. Arrays are not changed later.

    Attributes:
        epoch: Increases with each change.
        share: float32 [n], share of each product's variants that is in stock, 0..1.
        price: float32 [n], NaN unknown.
        columns: The shop's own columns, by their names.
        standing: Rules that hold.
        as_of: Until when changes are known, in seconds since 1970; None if there are no facts.
        problem: Why the latest changes cannot be read; "" if they can.
    """

    epoch: int
    share: Array
    price: Array
    columns: Mapping[str, NumericColumn] = field(default_factory=dict)
    standing: Standing = NOTHING_STANDS
    as_of: float | None = None
    problem: str = ""

    @classmethod
    def of_catalogue(cls, store: ItemStore) -> "FactsNow":
        """What the catalogue said when it was built."""
        return cls(0, store.in_stock.astype(np.float32), store.price)

    def standing_of(self, is_search: bool) -> Standing:
        """The standing rules for a search or a storefront."""
        return self.standing.of_searches if is_search else self.standing

    @cached_property
    def in_stock(self) -> Array:
        """Which products are not sold out: bool [n]."""
        stocked: Array = self.share > 0
        return stocked


@dataclass
class _News:
    """What was read since the facts were last asked for."""

    as_of: float | None
    rules: tuple[StandingRule, ...]
    problem: str
    changed: dict[str, Array] = field(default_factory=dict)
    entries: int = 0
    restarted: bool = False


class Facts:
    """Follows the journal of a deployment. Thread-safe.

    Args:
        store: The item store of the build that is served.
        folder: Of the facts; see :func:`facts_folder`.
        clock: Seconds since 1970.
    """

    def __init__(self, store: ItemStore, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._reader = JournalReader(folder)
        self._base = FactsNow.of_catalogue(store)
        self._now = self._base
        self._row_of_slot = np.empty(0, np.int64)
        self._rules: tuple[StandingRule, ...] = ()
        self._lock = threading.Lock()
        # Everything is read while the stage is loaded, not by its first request.
        self.now()

    def now(self) -> FactsNow:
        """The facts at this moment. It costs a system call, and more only if something has changed."""
        with self._lock:
            return self._read()

    def rules(self) -> tuple[StandingRule, ...]:
        """All standing rules, those of the future and the past day too, in the order in which they were set."""
        with self._lock:
            self._read()
            return self._rules

    def _read(self) -> FactsNow:
        before, news = self._now, _News(self._now.as_of, self._rules, self._now.problem)
        try:
            for entry in self._reader.read():
                self._take(entry, news)
        except (FactsError, OSError, ValueError, LookupError) as error:
            # What was known before goes on to count.
            news.problem, news.entries = str(error), news.entries + 1
        moment = self._clock()
        if not news.entries and moment < before.standing.until:
            return before
        standing = before.standing
        if news.rules is not self._rules or moment >= standing.until:
            self._rules, standing = news.rules, Standing.at(news.rules, moment)
        self._now = FactsNow(
            epoch=before.epoch + 1,
            share=news.changed.get(IN_STOCK, before.share),
            price=news.changed.get(PRICE, before.price),
            columns=self._columns(news),
            standing=standing,
            as_of=news.as_of,
            problem=news.problem,
        )
        return self._now

    def _columns(self, news: "_News") -> Mapping[str, NumericColumn]:
        """The shop's own columns; those that have not changed keep what was derived from them."""
        own = {name: NumericColumn(values) for name, values in news.changed.items() if name not in COLUMNS}
        return {**({} if news.restarted else self._now.columns), **own}

    def _take(self, entry: Entry, news: "_News") -> None:
        news.entries += 1
        if isinstance(entry, Changes):
            self._take_changes(entry, news)
            if len(entry.time):
                news.as_of = max(news.as_of or 0.0, float(entry.time.max()))
        elif isinstance(entry, Rules):
            news.rules = read_rules(entry.rules)
        elif isinstance(entry, Seen):
            news.as_of = max(news.as_of or 0.0, entry.time)
        else:
            self._row_of_slot, news.rules, news.as_of, news.problem = np.empty(0, np.int64), (), None, ""
            news.changed = {IN_STOCK: self._base.share.copy(), PRICE: self._base.price.copy()}
            news.restarted = True

    def _take_changes(self, entry: Changes, news: "_News") -> None:
        if len(entry.ids):
            known = self._row_of_slot[: entry.first]
            self._row_of_slot = np.concatenate([known, find_encoded(self._store.product_ids, entry.ids)])
        rows = self._row_of_slot[entry.slot]
        for position, name in enumerate(entry.columns):
            meant = (entry.column == position) & (rows >= 0)
            if name not in news.changed:
                news.changed[name] = self._before(name, news).copy()
            news.changed[name][rows[meant]] = entry.value[meant]

    def _before(self, name: str, news: "_News") -> Array:
        """The values of a column before the news."""
        if name in COLUMNS:
            return self._now.share if name == IN_STOCK else self._now.price
        if name in self._now.columns and not news.restarted:
            return self._now.columns[name].values
        return np.full(len(self._store), np.nan, np.float32)
