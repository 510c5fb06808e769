"""Which products a request may show."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from endcap_server.shop.facts import FactsNow
from endcap_server.shop.rule_index import CompiledRules
from endcap_server.stages.sources import first

_REMEMBERED = 32
"""Sets of rules; their masks take a byte and a bit for each product."""


@dataclass(frozen=True)
class Allowed:
    """The products that are in stock now and that no rule excludes."""

    facts: FactsNow
    rules: CompiledRules

    @cached_property
    def each(self) -> np.ndarray:
        """Of all n products: bool [n]."""
        shown: np.ndarray = self.facts.in_stock & self.rules.mask
        affordable = self.rules.affords(self.facts.price, self.facts.share)
        return shown if affordable is None else shown & affordable

    def which(self, rows: np.ndarray) -> np.ndarray:
        """Which of ``rows`` (int [k]) may be shown: bool [k]."""
        shown: np.ndarray = self.facts.in_stock[rows] & self.rules.allowed(rows)
        affordable = self.rules.affords(self.facts.price[rows], self.facts.share[rows])
        return shown if affordable is None else shown & affordable

    def factors(self, rows: np.ndarray) -> np.ndarray:
        """The factors of boost and bury for the scores of ``rows`` (int [k]): float32 [k]."""
        named = self.facts.columns.keys() & self.rules.column_factors.keys()
        return self.rules.factors(rows, {name: self.facts.columns[name].scaled[rows] for name in named})

    @property
    def unknown_columns(self) -> list[str]:
        """Columns that the rules name and the facts do not have, as "column:NAME"."""
        return [f"column:{name}" for name in self.rules.column_factors if name not in self.facts.columns]

    @cached_property
    def bits(self) -> np.ndarray | None:
        """Filter for the engine: uint8 [ceil(n / 8)], one bit per product, the lowest first; None: all are allowed."""
        return None if self.each.all() else np.packbits(self.each, bitorder="little")

    def among(self, rows: np.ndarray) -> np.ndarray:
        """Those of ``rows`` (int [k], -1 padded) that may be shown, in their order."""
        rows = rows[rows >= 0]
        kept: np.ndarray = rows[self.each[rows]]
        return kept

    def first(self, order: np.ndarray, count: int) -> np.ndarray:
        """The first ``count`` of ``order`` (int [n]) that may be shown, or all of these: int32 [at most count]."""
        return first(order, count, self.among)


class AllowedOf:
    """The products that requests may show: those of equal facts and rules are worked out once.

    A mask of all products costs milliseconds in a large catalogue. With changed facts, all are forgotten.
    """

    def __init__(self) -> None:
        self._known: tuple[FactsNow | None, dict[int, Allowed]] = (None, {})

    def __call__(self, facts: FactsNow, rules: CompiledRules) -> Allowed:
        """The products that ``facts`` and ``rules`` allow. The rules are told apart by identity."""
        of_facts, known = self._known
        if of_facts is not facts or len(known) >= _REMEMBERED:
            known = {}
            self._known = (facts, known)
        # An entry holds its rules, so that no others can have their id.
        return known.setdefault(id(rules), Allowed(facts, rules))
