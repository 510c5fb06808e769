"""Examples of the comparison: what shoppers bought after a moment, among candidates, given what was known before it.

Two kinds of logs need two kinds of moments. *weeks*: the days of `behaviour/examples.py`; purchases of the following
weeks are the labels. *basket*: the middle of a shopper's day; the other half of the basket is the labels. It is for
logs in which few shoppers come back. Behaviour tables are always as of the first day of a period.

Candidates are those of the sources of behaviour, random products, and products that nobody had bought before the
period (*cold* ones). The cold ones are drawn from those that somebody bought in the period; products that never sell
would make them easy to tell apart.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from endcap_server.shop.columns import Ragged
from endcap_server.shop.store import ItemStore
from endcap_server.stages.ranking_features import FeatureTables
from endcap_server.stages.sources import HISTORY_ITEMS, Profile

from endcap_builders.behaviour.examples import candidates, cuts_of
from endcap_builders.behaviour.log import Array, EventLog
from endcap_builders.behaviour.tables import BehaviourSettings, behaviour_of

_KEPT = 0.25
"""Share of the sources' candidates not bought that are kept; they weigh 4."""
_RANDOM, _COLD = 30, 30
_LEAST_BASKET = 4
_TEST, _VALIDATION, _WARM_UP = 0.15, 0.1, 0.25
"""Shares of the events that a split of baskets takes from the end, and from the start."""

Track = Callable[[Iterable[Any], str, float | None], Iterator[Any]]


@dataclass(frozen=True)
class Period:
    """Days from ``start`` to before ``end`` (days since 1970)."""

    start: int
    end: int


@dataclass(frozen=True)
class Visits:
    """n examples of v visits, grouped by visit.

    Attributes:
        features: float32 [n, F], `ranking_features.FEATURES`.
        product: int64 [n].
        bought: bool [n].
        weight: float32 [n], candidates that each represents.
        cold: bool [n], nobody had bought the product before the period.
        sizes: int64 [v], examples of each visit.
        shopper: int64 [v].
        history: products of each visit's history, the last `HISTORY_ITEMS`, oldest first.
    """

    features: Array
    product: Array
    bought: Array
    weight: Array
    cold: Array
    sizes: Array
    shopper: Array
    history: Ragged

    @property
    def visit(self) -> Array:
        """Visit of each example: int64 [n]."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def write(self, path: Path) -> None:
        """Write everything into one file."""
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "history"}
        np.savez(path, **columns, history=self.history.values, history_offsets=self.history.offsets)

    @classmethod
    def read(cls, path: Path) -> "Visits":
        """Read what :meth:`write` wrote."""
        with np.load(path) as file:
            columns = {name: file[name] for name in file.files}
        history = Ragged(columns.pop("history"), columns.pop("history_offsets"))
        return cls(**columns, history=history)

    @classmethod
    def join(cls, parts: Sequence["Visits"]) -> "Visits":
        """Concatenate at least one."""
        names = [name for name in cls.__dataclass_fields__ if name != "history"]
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(**joined, history=Ragged.joined([part.history for part in parts]))


def weeks_of(log: EventLog, most: int) -> tuple[list[Period], Period, Period]:
    """Periods to train on, to validate on and to test on; their labels do not overlap."""
    cuts = [Period(cut.day, cut.day + cut.days) for cut in cuts_of(log, 10_000)]
    test = cuts[0]
    validation = next(each for each in cuts if each.end <= test.start)
    return [each for each in cuts if each.end <= validation.start][:most], validation, test


def baskets_of(log: EventLog, most: int) -> tuple[list[Period], Period, Period]:
    """As :func:`weeks_of`, in periods of equally many events."""
    shares = [*np.linspace(_WARM_UP, 1 - _TEST - _VALIDATION, most + 1), 1 - _TEST]
    days = [int(day) for day in np.quantile(log.day, shares, method="lower")]
    periods = [Period(start, end) for start, end in pairwise(days) if start < end]
    return periods[:-1], periods[-1], Period(days[-1], int(log.day.max()) + 1)


def visits_of(
    log: EventLog,
    periods: Sequence[Period],
    store: ItemStore,
    settings: BehaviourSettings,
    *,
    baskets: bool,
    most: int,
    seed: int,
    track: Track,
) -> Visits:
    """The visits of all periods, at most ``most`` of each."""
    found = []
    for period in track(periods, "days of the past", len(periods)):
        rng = np.random.default_rng([seed, period.start])
        part = _of_period(log, period, store, settings, baskets, most, rng)
        if part is not None:
            found.append(part)
    if not found:
        raise ValueError("captions: expected shoppers who come back in the events, found none; try --next basket")
    return Visits.join(found)


def _of_period(
    log: EventLog,
    period: Period,
    store: ItemStore,
    settings: BehaviourSettings,
    baskets: bool,
    most: int,
    rng: np.random.Generator,
) -> Visits | None:
    before = log.take(log.day < period.start)
    behaviour = behaviour_of(before, period.start, np.asarray(store.category), settings)
    tables = FeatureTables.of(store, behaviour)
    inside = log.take((log.day >= period.start) & (log.day < period.end) & log.bought)
    unsold = behaviour.bought == 0
    cold = np.unique(inside.row[unsold[inside.row]])
    moments = list(_half_baskets(log, period) if baskets else _returns(before, inside))
    parts = []
    for place in rng.permutation(len(moments))[:most].tolist():
        shopper, history, wanted = moments[place]
        profile = Profile.of(history)
        rows = candidates(tables, profile)
        rows = rows[rng.random(len(rows)) < _KEPT]
        extra = [rng.integers(0, len(store), _RANDOM), rng.permutation(cold)[:_COLD], wanted]
        others = np.setdiff1d(np.concatenate(extra), rows)
        product = np.concatenate([rows, others])
        bought = np.isin(product, wanted)
        of_source = np.arange(len(product)) < len(rows)
        parts.append(
            Visits(
                features=tables.of_profile(profile, product),
                product=product,
                bought=bought,
                weight=np.where(of_source & ~bought, 1 / _KEPT, 1).astype(np.float32),
                cold=unsold[product],
                sizes=np.array([len(product)]),
                shopper=np.array([shopper]),
                history=Ragged.of([profile.history]),
            )
        )
    return Visits.join(parts) if parts else None


def _returns(before: EventLog, inside: EventLog) -> Iterator[tuple[int, Array, Array]]:
    """Shopper, history and distinct purchases of everyone who was there before the period and bought in it."""
    histories, bought = before.by_shopper(), inside.by_shopper()
    for shopper in sorted(set(histories) & set(bought)):
        yield shopper, histories[shopper][-HISTORY_ITEMS:], np.unique(bought[shopper])


def _half_baskets(log: EventLog, period: Period) -> Iterator[tuple[int, Array, Array]]:
    """The same for the middle of each shopper's days in the period; what the first half has is not wanted."""
    start = np.flatnonzero(np.r_[True, (np.diff(log.shopper) != 0) | (np.diff(log.day) != 0)])
    end = np.r_[start[1:], len(log)]
    first = np.searchsorted(log.shopper, log.shopper[start])
    for of_shopper, begin, stop in zip(first.tolist(), start.tolist(), end.tolist(), strict=True):
        if period.start <= log.day[begin] < period.end and stop - begin >= _LEAST_BASKET:
            middle = (begin + stop) // 2
            rest = np.arange(middle, stop)[log.bought[middle:stop]]
            wanted = np.setdiff1d(log.row[rest], log.row[begin:middle])
            if len(wanted):
                yield int(log.shopper[begin]), log.row[of_shopper:middle][-HISTORY_ITEMS:], wanted
