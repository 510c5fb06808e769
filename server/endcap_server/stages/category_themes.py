"""Themes without an LLM: the catalogue's categories, or popular keywords if it has none."""

from collections.abc import Iterable, Iterator

import numpy as np

from endcap_server.shop import prompts
from endcap_server.shop.prompts import ThemeDraft
from endcap_server.shop.store import ItemStore

_KEYWORDS_OF_CATEGORY = 3
_POPULAR_KEYWORDS = 64


class CategoryThemes:
    """The fallback of ``theme``: a category's name as title, its words and searches as concepts."""

    def __init__(self, store: ItemStore):
        self.store = store
        stocked = np.flatnonzero((store.category >= 0) & store.in_stock)
        # Without events, rank categories by their number of products.
        weight = np.bincount(store.category[stocked], store.popularity[stocked] + 1e-3, minlength=len(store.categories))
        self._popular = [i for i in np.argsort(-weight, kind="stable").tolist() if weight[i] > 0]
        self._keywords: dict[int, list[int]] = {}
        by_count = np.argsort(-store.keyword_counts, kind="stable")
        for row in by_count.tolist():
            listed = self._keywords.setdefault(int(store.keyword_category[row]), [])
            if len(listed) < _KEYWORDS_OF_CATEGORY:
                listed.append(row)
        self._searched = by_count[:_POPULAR_KEYWORDS].tolist()

    def themes(self, categories: Iterable[int]) -> Iterator[ThemeDraft]:
        """Themes of ``categories`` (positions; the shopper's, best first), then of popular ones, each title once."""
        titles: set[str] = set()
        own = [int(i) for i in categories if 0 <= i < len(self.store.categories)]
        for position in [*own, *self._popular]:
            name = self.store.category_labels[position]
            if name and name.casefold() not in titles:
                titles.add(name.casefold())
                searches = self.store.keywords.take(self._keywords.get(position, ()))
                yield ThemeDraft(_title(name), tuple(dict.fromkeys([prompts.label_name(name) or name, *searches])))
        for row in self._searched:
            text = self.store.keywords[row]
            if text and text.casefold() not in titles:
                titles.add(text.casefold())
                yield ThemeDraft(_title(text), (text,))


def _title(name: str) -> str:
    """A name as a title: words only in capitals or only in small letters get one capital at the start."""
    return name.capitalize() if name.isupper() or name.islower() else name
