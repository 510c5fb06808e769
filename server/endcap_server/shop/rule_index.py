"""What merchandising rules mean for the rows of an item store: the products they exclude, pin, boost and bury."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any

import numpy as np

from endcap_server.shop.rules import MAX_BOOST, Amendment, MerchandisingRules, PriceRange, category_path
from endcap_server.shop.store import ItemStore
from endcap_server.shop.text import folded_name

_REMEMBERED = 32


def _banned(excluded: np.ndarray, only: np.ndarray | None, count: int) -> np.ndarray:
    return excluded if only is None else np.union1d(excluded, np.setdiff1d(np.arange(count), only))


class RuleIndex:
    """Finds the brands and categories that rules name; created once per store."""

    def __init__(self, store: ItemStore):
        self.store = store
        self._compiled = lru_cache(maxsize=_REMEMBERED)(self._compile)

    @cached_property
    def brands(self) -> dict[str, list[int]]:
        """Brand positions by folded name."""
        found: dict[str, list[int]] = {}
        for position, brand in enumerate(self.store.brands):
            found.setdefault(folded_name(brand), []).append(position)
        return found

    @cached_property
    def categories(self) -> dict[tuple[str, ...], list[int]]:
        """Category positions by each prefix of their folded path."""
        found: dict[tuple[str, ...], list[int]] = {}
        for position, category in enumerate(self.store.categories):
            path = category_path(category)
            for length in range(1, len(path) + 1):
                found.setdefault(path[:length], []).append(position)
        return found

    def names(self, kind: str, name: str) -> bool:
        """Whether the store has the product, brand or category of this id or name; of categories also one above."""
        if kind == "product":
            return bool(self.store.product_ids.find([name])[0] >= 0)
        return folded_name(name) in self.brands if kind == "brand" else category_path(name) in self.categories

    def compile(self, rules: MerchandisingRules, standing: Amendment | None = None) -> "CompiledRules":
        """Look up in the store everything that rules name; the results of the latest rules are cached.

        Args:
            rules: Of the request.
            standing: Adds what stands below them (`standing_rules.Standing.under`).
        """
        return self._compiled(rules.model_dump_json(exclude_defaults=True), standing)

    def _compile(self, document: str, standing: "Amendment | None") -> "CompiledRules":
        rules = MerchandisingRules.model_validate_json(document)
        if standing is None:
            return self.look_up(rules)
        # Callers are told what they themselves named in vain.
        return replace(self.look_up(standing(rules)), unknown=self._compiled(document, None).unknown)

    def look_up(self, rules: MerchandisingRules) -> "CompiledRules":
        """The same, without the cache."""
        unknown_names: list[str] = []

        def rows(ids: tuple[str, ...]) -> np.ndarray:
            found = self.store.product_ids.find(list(ids)) if ids else np.empty(0, np.int64)
            unknown_names.extend(f"product:{name}" for name, row in zip(ids, found, strict=True) if row < 0)
            return found[found >= 0].astype(np.int32)

        def brands(name: str) -> list[int]:
            if not (found := self.brands.get(folded_name(name), [])):
                unknown_names.append(f"brand:{name}")
            return found

        def categories(name: str) -> list[int]:
            if not (found := self.categories.get(category_path(name), [])):
                unknown_names.append(f"category:{name}")
            return found

        compiled = CompiledRules(
            store=self.store,
            rules=rules,
            pins=rows(rules.pin),
            excluded_rows=rows(rules.exclude.products),
            excluded_brands=_positions(brands(name) for name in rules.exclude.brands),
            excluded_categories=_positions(categories(name) for name in rules.exclude.categories),
            only_brands=_kept(map(brands, rules.only.brands)),
            only_categories=_kept(map(categories, rules.only.categories)),
            price=rules.price,
            least_in_stock=rules.least_in_stock,
            max_per_brand=rules.max_per_brand,
            unknown=unknown_names,
        )
        of_products: list[tuple[str, float]] = []
        for name, factor in (*rules.boost.items(), *rules.bury.items()):
            kind, _, value = name.partition(":")
            if kind == "brand":
                compiled.add_factor(compiled.brand_factors, brands(value), factor)
            elif kind == "category":
                compiled.add_factor(compiled.category_factors, categories(value), factor)
            elif kind == "column":
                compiled.column_factors[value.strip()] = factor * compiled.column_factors.get(value.strip(), 1.0)
            else:
                of_products.append((value, factor))
        # One look-up for all: single look-ups would take most of the time for a thousand rules.
        found = self.store.product_ids.find([value for value, _ in of_products]).tolist() if of_products else []
        for (value, factor), row in zip(of_products, found, strict=True):
            if row < 0:
                unknown_names.append(f"product:{value}")
            else:
                compiled.add_factor(compiled.row_factors, [row], factor)
        return compiled


def _kept(found: Iterable[list[int]]) -> np.ndarray | None:
    """What is named; None if nothing is asked for, which is not the same as names that nothing has."""
    lists = list(found)
    return _positions(lists) if lists else None


def _positions(found: Iterable[list[int]]) -> np.ndarray:
    return np.unique(np.fromiter(chain.from_iterable(found), np.int32))


@dataclass(frozen=True)
class CompiledRules:
    """Rules as rows, positions and factors of one store; ``rules`` are the rules themselves.

    ``unknown`` lists what the store does not have, as "product:ID", "brand:NAME" or "category:PATH".
    """

    store: ItemStore
    rules: MerchandisingRules
    pins: np.ndarray
    excluded_rows: np.ndarray
    excluded_brands: np.ndarray
    excluded_categories: np.ndarray
    max_per_brand: int | None
    unknown: list[str]
    only_brands: np.ndarray | None = None
    only_categories: np.ndarray | None = None
    price: PriceRange | None = None
    least_in_stock: float = 0.0
    brand_factors: dict[int, float] = field(default_factory=dict)
    category_factors: dict[int, float] = field(default_factory=dict)
    row_factors: dict[int, float] = field(default_factory=dict)
    column_factors: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def add_factor(factors: dict[int, float], positions: list[int], factor: float) -> None:
        """Multiply a factor onto ``positions``."""
        for position in positions:
            factors[position] = factors.get(position, 1.0) * factor

    @cached_property
    def of_themes(self) -> dict[str, Any]:
        """See :meth:`MerchandisingRules.of_themes`."""
        return self.rules.of_themes()

    @property
    def unknown_products(self) -> int:
        """Number of distinct product ids that the store does not have."""
        return len({name for name in self.unknown if name.startswith("product:")})

    def allowed(self, rows: np.ndarray) -> np.ndarray:
        """Which of ``rows`` (int [k], each a row of the store) may be shown: bool [k]."""
        allowed = np.ones(len(rows), dtype=bool)
        if len(self.excluded_rows):
            allowed &= ~np.isin(rows, self.excluded_rows)
        if len(self.excluded_brands):
            allowed &= ~np.isin(self.store.brand[rows], self.excluded_brands)
        if len(self.excluded_categories):
            allowed &= ~np.isin(self.store.category[rows], self.excluded_categories)
        if self.only_brands is not None:
            allowed &= np.isin(self.store.brand[rows], self.only_brands)
        if self.only_categories is not None:
            allowed &= np.isin(self.store.category[rows], self.only_categories)
        return allowed

    def affords(self, price: np.ndarray, share: np.ndarray) -> np.ndarray | None:
        """Which products have a price and stock that the rules allow: bool [k]; None if these do not matter.

        Args:
            price: float [k], NaN unknown.
            share: float [k], share of each product's variants that is in stock.
        """
        if self.price is None:
            return share >= self.least_in_stock if self.least_in_stock else None
        highest = np.inf if self.price.max is None else self.price.max
        # Prices are float32; a limit of 9.99 must include a price of 9.99.
        low, high = np.float32(self.price.min), np.float32(highest)
        found: np.ndarray = (price >= low) & (price <= high) & (share >= self.least_in_stock)
        return found

    @cached_property
    def banned_brands(self) -> np.ndarray:
        """Positions of the brands of which nothing may be shown: int [k]."""
        return _banned(self.excluded_brands, self.only_brands, len(self.store.brands))

    @cached_property
    def banned_categories(self) -> np.ndarray:
        """Positions of the categories of which nothing may be shown: int [k]."""
        return _banned(self.excluded_categories, self.only_categories, len(self.store.categories))

    @cached_property
    def mask(self) -> np.ndarray:
        """Which of all products of the store these rules allow, whatever their price and stock: bool [n]."""
        mask = np.ones(len(self.store), dtype=bool)
        mask[self.excluded_rows] = False
        for column, names, excluded, only in (
            (self.store.brand, self.store.brands, self.excluded_brands, self.only_brands),
            (self.store.category, self.store.categories, self.excluded_categories, self.only_categories),
        ):
            if len(excluded) or only is not None:
                # The last entry belongs to -1, that is, to products without a brand or category.
                allowed = np.full(len(names) + 1, only is None)
                allowed[slice(0) if only is None else only] = True
                allowed[excluded] = False
                mask &= allowed[column]
        return mask

    def factors(self, rows: np.ndarray, scaled: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """The factors of boost and bury for the scores of ``rows``: float32 [k], at most `MAX_BOOST`.

        1 for products without a rule.

        Args:
            rows: int [k].
            scaled: Column -> float [k], 0..1, where ``rows`` stand between its low and its high values.
        """
        factors = np.ones(len(rows), dtype=np.float64)
        for column, by_position in (
            (self.store.brand, self.brand_factors),
            (self.store.category, self.category_factors),
            (None, self.row_factors),
        ):
            if by_position:
                values = rows if column is None else column[rows]
                factors *= np.array([by_position.get(value, 1.0) for value in values.tolist()])
        for name, values in (scaled or {}).items():
            factors *= 1 + (self.column_factors.get(name, 1.0) - 1) * values
        return np.minimum(factors, MAX_BOOST).astype(np.float32)
