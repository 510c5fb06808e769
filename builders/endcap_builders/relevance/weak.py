"""Weak judgements from a catalogue's structure, for catalogues without human ones.

A query is derived from the catalogue (a category, brand + category, words of a title), so its category is known. The
relevance of a product depends on the distance of its category and on its share of the query's words:

    same category     0.5 + 0.5 * share of the query's words
    same parent       0.2 + 0.2 * share
    elsewhere         0.3 if it has all words, else 0

Without categories, only the words count: 1 for all of them, 0.5 * share otherwise. These labels have no synonyms or
substitutes. Train the models again when human judgements exist.
"""

import re
from collections import defaultdict

import numpy as np
import polars as pl

from endcap_builders.relevance.pairs import Pairs, make_pairs

_WORD = re.compile(r"[^\W_]+")
_STOP = frozenset(
    (
        "and",
        "with",
        "for",
        "the",
        "of",
        "in",
        "a",
        "an",
        "by",
        "to",
        "from",
        "or",
        "on",
        "at",
        "pack",
        "count",
        "set",
        "oz",
        "ct",
        "lb",
    )
)
_ATTEMPTS = 4


def weak_pairs(products: pl.DataFrame, queries: int, group_size: int, rng: np.random.Generator) -> Pairs:
    """Weakly labelled groups.

    Args:
        products: title, brand, category of each row of the item store, all String.
        queries: number of queries; fewer if the catalogue has fewer distinct texts.
        group_size: products per query: about a quarter each of matching, same category, same parent, and random.
        rng: draws.
    """
    catalogue = _Structure(products)
    texts: list[str] = []
    rows: list[int] = []
    labels: list[float] = []
    seen: set[str] = set()
    for _ in range(_ATTEMPTS * queries):
        if len(seen) == queries:
            break
        source = int(rng.integers(products.height))
        text = catalogue.query_about(source, rng)
        if not text or text in seen:
            continue
        seen.add(text)
        words = _words(text)
        for row in catalogue.candidates(source, words, group_size, rng):
            texts.append(text)
            rows.append(row)
            labels.append(catalogue.relevance(row, source, words))
    return make_pairs(texts, np.array(rows, dtype=np.int32), np.array(labels, dtype=np.float32))


class _Structure:
    """Words and categories of the products, indexed."""

    def __init__(self, products: pl.DataFrame) -> None:
        self.titles, self.brands = products["title"].to_list(), products["brand"].to_list()
        self.categories = products["category"].to_list()
        self.parents = [path.rpartition(" > ")[0] for path in self.categories]
        self.words = [
            _words(f"{title} {brand} {path.rpartition(' > ')[2]}")
            for title, brand, path in zip(self.titles, self.brands, self.categories, strict=True)
        ]
        self.of_category, self.of_parent, self.of_word = (defaultdict(list) for _ in range(3))
        for row, (path, parent) in enumerate(zip(self.categories, self.parents, strict=True)):
            if path:
                self.of_category[path].append(row)
            if parent:
                self.of_parent[parent].append(row)
            for word in self.words[row]:
                self.of_word[word].append(row)

    def query_about(self, row: int, rng: np.random.Generator) -> str:
        """A query for this product."""
        leaf = self.categories[row].rpartition(" > ")[2].lower()
        kind = rng.random()
        if leaf and kind < 0.2:
            return leaf
        if leaf and self.brands[row] and kind < 0.4:
            return f"{self.brands[row].lower()} {leaf}"
        title = [word for word in _WORD.findall(self.titles[row].lower()) if word not in _STOP]
        length = min(len(title), int(rng.integers(2, 4)))
        start = int(rng.integers(0, len(title) - length + 1)) if title else 0
        phrase = " ".join(title[start : start + length])
        return f"{phrase} {leaf}".strip() if kind < 0.55 else phrase

    def candidates(self, source: int, words: frozenset[str], count: int, rng: np.random.Generator) -> list[int]:
        """The source product and others, from near to far categories."""
        rarest = min((self.of_word[word] for word in words if word in self.of_word), key=len, default=[])
        pools = (rarest, self.of_category[self.categories[source]], self.of_parent[self.parents[source]])
        chosen = {source: None}
        for pool in pools:
            if pool:
                chosen.update(dict.fromkeys(rng.choice(pool, min(len(pool), count // 4), replace=False).tolist()))
        for row in rng.integers(0, len(self.titles), 2 * count).tolist():
            if len(chosen) >= min(count, len(self.titles)):
                break
            chosen.setdefault(row)
        return list(chosen)

    def relevance(self, row: int, source: int, words: frozenset[str]) -> float:
        """The weak label of a product for a query about `source`."""
        share = len(words & self.words[row]) / max(1, len(words))
        if not self.categories[source]:
            return 1.0 if share == 1 else 0.5 * share
        if self.categories[row] == self.categories[source]:
            return 0.5 + 0.5 * share
        if self.parents[row] and self.parents[row] == self.parents[source]:
            return 0.2 + 0.2 * share
        return 0.3 if share == 1 else 0.0


def _words(text: str) -> frozenset[str]:
    """Words in lower case without a plural s; better stemming would not matter for such coarse labels."""
    words = (word for word in _WORD.findall(text.lower()) if word not in _STOP)
    return frozenset(
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in words
    )
