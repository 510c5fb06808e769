"""Names of excluded products, brands and categories: no title, concept or keyword of a page may contain them.

Otherwise, a title could name an excluded thing above products of another kind.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from endcap_server.shop.rule_index import CompiledRules, RuleIndex
from endcap_server.shop.rules import OF_NAMES, Exclude, MerchandisingRules, Only
from endcap_server.shop.store import ItemStore
from endcap_server.shop.words import LITTLE_WORDS, stem, words

BEST_PRODUCTS = 8
"""Number of best products that decide whether a search keyword is about something excluded."""
MOSTLY = 0.5
"""Least share of these products that must be excluded."""
_MAX_WORDS = 5


class Exclusions:
    """Builds `ExcludedNames` from rules, and caches those of the latest rules."""

    def __init__(self, store: ItemStore):
        self._rule_index = RuleIndex(store)
        self._made = lru_cache(maxsize=128)(self._make)

    def of(self, rules: Mapping[str, Any]) -> "ExcludedNames | None":
        """The names for the members `exclude` and `only` of RULES; None for rules without them."""
        said = {key: value for key, value in rules.items() if key in OF_NAMES and value}
        return self._made(json.dumps(said, sort_keys=True)) if said else None

    def _make(self, document: str) -> "ExcludedNames":
        # Not validated again: with standing rules there may be more names than a request may have.
        found: dict[str, Any] = json.loads(document)
        named: dict[str, dict[str, Any]] = {
            member: {key: tuple(names) for key, names in found.get(member, {}).items()} for member in OF_NAMES
        }
        rules = MerchandisingRules.model_construct(
            exclude=Exclude.model_construct(**named["exclude"]), only=Only.model_construct(**named["only"])
        )
        return ExcludedNames(self._rule_index.store, self._rule_index.look_up(rules))


class ExcludedNames:
    """Finds excluded things in texts, by the stems of their words.

    A text names a brand or a category if it contains the whole name, and a product if it contains all words of its
    title. A single word names a category if no allowed category has the word. A text also names something excluded if
    it contains a known search keyword whose best products are mostly excluded.
    """

    def __init__(self, store: ItemStore, rules: CompiledRules):
        self._store = store
        self._rules = rules
        categories = _category_names(store.categories, store.category_labels, set(rules.banned_categories.tolist()))
        names = {_stems(store.brands[position]) for position in rules.banned_brands.tolist()} | categories[0]
        self._by_first: dict[str, list[tuple[str, ...]]] = {}
        for name in names - {()}:
            self._by_first.setdefault(name[0], []).append(name)
        self._words = categories[1]
        titles = {frozenset(_stems(store.titles[row])) for row in rules.excluded_rows.tolist()}
        self._titles = titles - {frozenset()}
        self._free: dict[int, bool] = {}

    def names(self, text: str) -> bool:
        """Whether a text names something that is excluded, itself or by a known keyword in it."""
        return self._names_itself(text) or self._names_by_keyword(words(text))

    def free_keywords(self, rows: Sequence[int]) -> list[int]:
        """The known keywords among ``rows`` that are not about excluded products and do not name anything excluded."""
        new = [row for row in rows if row not in self._free]
        for row, about in zip(new, self.keywords(new).tolist(), strict=True):
            self._free[row] = not about and not self._names_itself(self._store.keywords[row])
        return [row for row in rows if self._free[row]]

    def _names_itself(self, text: str) -> bool:
        found = _stems(text)
        if not self._words.isdisjoint(found):
            return True
        for start, first in enumerate(found):
            if any(found[start : start + len(name)] == name for name in self._by_first.get(first, ())):
                return True
        distinct = frozenset(found)
        return any(title <= distinct for title in self._titles)

    def keywords(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Which of the known keywords ``rows`` are about excluded products: bool [k]."""
        if not len(rows):
            return np.empty(0, bool)
        products = self._store.keyword_products[np.asarray(rows), :BEST_PRODUCTS]
        known = products >= 0
        excluded = known.copy()
        excluded[known] = ~self._rules.allowed(products[known])
        mostly: np.ndarray = excluded.sum(axis=1) >= np.maximum(MOSTLY * known.sum(axis=1), 1e-9)
        return mostly

    def _names_by_keyword(self, found: Sequence[str]) -> bool:
        phrases = {
            " ".join(found[start:end])
            for start in range(len(found))
            for end in range(start + 1, min(start + _MAX_WORDS, len(found)) + 1)
        }
        rows = self._store.keywords.find(list(phrases))
        return bool(self.keywords(rows[rows >= 0]).any())


def _stems(text: str) -> tuple[str, ...]:
    return tuple(stem(word) for word in words(text))


def _category_names(
    categories: Sequence[str], labels: Sequence[str], excluded: set[int]
) -> tuple[set[tuple[str, ...]], frozenset[str]]:
    """Names and labels of categories that are excluded as a whole, and words that only these have; both as stems."""
    if not excluded:
        return set(), frozenset()
    paths = [[_stems(part) for part in category.split(">")] for category in categories]
    allowed = [path for position, path in enumerate(paths) if position not in excluded]
    prefixes = {tuple(path[:length]) for path in allowed for length in range(1, len(path) + 1)}
    allowed_names = {name for path in allowed for name in path}
    allowed_names |= {_stems(label) for position, label in enumerate(labels) if position not in excluded}
    names = {
        path[length - 1]
        for position in excluded
        for path in (paths[position],)
        for length in range(1, len(path) + 1)
        if tuple(path[:length]) not in prefixes
    }
    names = (names | {_stems(labels[position]) for position in excluded}) - allowed_names
    allowed_words = {word for name in allowed_names for word in name}
    return names, frozenset(word for name in names for word in name) - allowed_words - LITTLE_WORDS
