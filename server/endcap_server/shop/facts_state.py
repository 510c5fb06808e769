"""The whole state of a deployment's facts, by product id: what a writer needs to know, and `endcap facts show`."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from endcap_server.shop.columns import Array, EncodedTexts
from endcap_server.shop.facts import COLUMNS
from endcap_server.shop.facts_journal import (
    Changes,
    Entry,
    FactsError,
    JournalReader,
    Restart,
    Rules,
    Seen,
)
from endcap_server.shop.facts_writer import LOCK_PATIENCE_S, JournalWriter
from endcap_server.shop.standing_rules import MAX_APPROVED, MAX_STANDING, RuleKind, StandingRule, read_rules


@dataclass(frozen=True)
class FactChange:
    """One new value.

    Attributes:
        product: Its product's id.
        column: Name of the column.
        value: NaN for unknown.
        time: When it became true, in seconds since 1970.
    """

    product: str
    column: str
    value: float
    time: float


@dataclass(frozen=True)
class RuleChange:
    """A standing rule that is set, or removed with its key."""

    rule: StandingRule
    remove: bool = False


@dataclass
class _Column:
    """Values and times of all slots: float64 [at least as many as slots]; time NaN where there is no value."""

    value: Array = field(default_factory=lambda: np.empty(0))
    time: Array = field(default_factory=lambda: np.empty(0))

    def grow(self, slots: int) -> None:
        if len(self.value) < slots:
            more = np.full(max(1024, slots, 2 * len(self.value)) - len(self.value), np.nan)
            self.value, self.time = np.concatenate([self.value, more]), np.concatenate([self.time, more])


class FactsState:
    """All facts that a journal holds."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.slot_of: dict[str, int] = {}
        self.columns: dict[str, _Column] = {}
        self.rules: dict[tuple[str, str], StandingRule] = {}
        self.as_of: float | None = None

    @classmethod
    def read(cls, folder: Path) -> "FactsState":
        """The state of a folder's journal; empty without one."""
        state = cls()
        for entry in JournalReader(folder).read():
            state.take(entry)
        return state

    def take(self, entry: Entry) -> None:
        """Apply an entry of the journal."""
        if isinstance(entry, Restart):
            self.__init__()  # type: ignore[misc]
        elif isinstance(entry, Rules):
            self.rules = {rule.key: rule for rule in read_rules(entry.rules)}
        elif isinstance(entry, Seen):
            self.as_of = max(self.as_of or 0.0, entry.time)
        else:
            self._take_changes(entry)

    def _take_changes(self, entry: Changes) -> None:
        ids = entry.ids.texts()
        self.slot_of |= zip(ids, range(entry.first, entry.first + len(ids)), strict=True)
        self.ids += ids
        for position, name in enumerate(entry.columns):
            column = self.columns.setdefault(name, _Column())
            column.grow(len(self.ids))
            meant = entry.column == position
            column.value[entry.slot[meant]] = entry.value[meant]
            column.time[entry.slot[meant]] = entry.time[meant]
        if len(entry.time):
            self.as_of = max(self.as_of or 0.0, float(entry.time.max()))

    @property
    def own_columns(self) -> list[str]:
        """Names of the shop's own columns."""
        return [name for name in self.columns if name not in COLUMNS]

    def of(self, product: str) -> dict[str, tuple[float, float]]:
        """Column -> (value, when it became true) of a product."""
        slot = self.slot_of.get(product)
        if slot is None:
            return {}
        found = {name: (each.value, each.time) for name, each in self.columns.items() if slot < len(each.time)}
        return {
            name: (float(value[slot]), float(at[slot])) for name, (value, at) in found.items() if not np.isnan(at[slot])
        }

    def encoded(self) -> bytes:
        """Records that give this state."""
        slots, columns, values, times = [], [], [], []
        for position, column in enumerate(self.columns.values()):
            column.grow(len(self.ids))
            known = np.flatnonzero(~np.isnan(column.time[: len(self.ids)]))
            slots.append(known)
            columns.append(np.full(len(known), position))
            values.append(column.value[known])
            times.append(column.time[known])
        none = [np.empty(0)]
        changes = Changes(
            list(self.columns),
            EncodedTexts.of(self.ids),
            0,
            *(np.concatenate(each or none) for each in (slots, columns, values, times)),
        )
        records = changes.encoded() + _rules_record(self.rules.values())
        return records if self.as_of is None else records + Seen(self.as_of).encoded()

    def changes(self, news: Sequence[FactChange]) -> Changes:
        """The record of the last value of each product and column in ``news`` that is not older than the known one."""
        latest: dict[tuple[str, str], FactChange] = {}
        for each in news:
            before = latest.get((each.product, each.column))
            if before is None or each.time >= before.time:
                latest[each.product, each.column] = each
        names: dict[str, int] = {}
        fresh: dict[str, int] = {}
        rows = []
        for each in latest.values():
            slot = self.slot_of.get(each.product)
            known = self.columns.get(each.column)
            if slot is not None and known is not None and slot < len(known.time) and known.time[slot] > each.time:
                continue
            if slot is None:
                slot = fresh.setdefault(each.product, len(self.ids) + len(fresh))
            rows.append((slot, names.setdefault(each.column, len(names)), each.value, each.time))
        slots, columns, values, times = np.array(rows, np.float64).reshape(-1, 4).T
        return Changes(list(names), EncodedTexts.of(fresh), len(self.ids), slots, columns, values, times)


class FactsWriter:
    """Writes facts into a folder's journal.

    Args:
        folder: Of the facts.
        what: What writes, for the error of another writer.
        clock: Seconds since 1970.
        patience_s: How long to wait for another writer.
    """

    def __init__(
        self,
        folder: Path,
        what: str,
        clock: Callable[[], float] = time.time,
        patience_s: float = LOCK_PATIENCE_S,
    ) -> None:
        self._journal, self._clock, self.patience_s = JournalWriter(folder, what), clock, patience_s
        self.state = FactsState()

    def write(
        self,
        changes: Sequence[FactChange] = (),
        rules: Sequence[RuleChange] = (),
        *,
        seen: float | None = None,
    ) -> int:
        """Take all of these, or nothing of them; when it returns, they are on disk and running servers see them.

        Args:
            changes: New values; one that is older than what is known of its product and column is left out.
            rules: Standing rules that are set or removed.
            seen: Until when changes are known, in seconds since 1970.

        Returns:
            How many of ``changes`` were taken.

        Raises:
            FactsError: Another writer holds the lock, the disk is full, or there are too many standing rules.
        """
        with self._opened():
            record = self.state.changes(changes)
            parts = [record.encoded()] if len(record.slot) else []
            if rules:
                parts.append(_rules_record(self._ruled(rules)))
            if seen is not None:
                parts.append(Seen(seen).encoded())
            if parts:
                self._journal.append(b"".join(parts))
                self._catch_up()
            if self._journal.has_grown:
                self._journal.compact(self.state.encoded())
                self._catch_up()
            return len(record.slot)

    def columns(self) -> list[str]:
        """Names of the shop's own columns that the journal has now, whoever wrote them."""
        self._catch_up()
        return self.state.own_columns

    @contextmanager
    def _opened(self) -> Iterator[None]:
        with self._journal.locked(self.patience_s):
            self._catch_up()
            self._journal.repair(self.state.encoded())
            self._catch_up()
            yield

    def _catch_up(self) -> None:
        for entry in self._journal.reader.read():
            self.state.take(entry)

    def _ruled(self, news: Iterable[RuleChange]) -> list[StandingRule]:
        """The standing rules after these; those that have ended for a day are forgotten."""
        rules = dict(self.state.rules)
        for each in news:
            rules.pop(each.rule.key, None)
            if not each.remove:
                rules[each.rule.key] = each.rule
        day_ago = self._clock() - 86_400
        kept = [rule for rule in rules.values() if rule.end is None or rule.end > day_ago]
        approved = sum(rule.rule is RuleKind.APPROVE for rule in kept)
        if len(kept) - approved > MAX_STANDING:
            raise FactsError(
                f"expected at most {MAX_STANDING} standing rules, got {len(kept) - approved}; remove some, or ban a "
                "brand or a category instead of many products"
            )
        if approved > MAX_APPROVED:
            raise FactsError(f"expected at most {MAX_APPROVED} approved titles, got {approved}; remove some")
        return kept


def _rules_record(rules: Iterable[StandingRule]) -> bytes:
    documents: list[dict[str, Any]] = [rule.model_dump(mode="json", exclude_none=True) for rule in rules]
    return Rules(documents).encoded()
