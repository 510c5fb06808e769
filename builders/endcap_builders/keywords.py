"""The known search keywords: texts of the search log, and texts derived from the catalogue.

LLM 2 can only choose among them (arXiv 2605.11118), so each must retrieve products.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from endcap_server.shop.columns import Array
from endcap_server.shop.prompts import MAX_KEYWORD_CHARACTERS, keyword_form, leaf_name, usable_candidates

from endcap_builders.words import content_stems, phrases

_LONGEST_PHRASE = 3
_LEAST_END = 0.3
"""Least share of titles in which a phrase must end a part: "table lamp" passes, "solid" and "classic" do not."""


_ATTRIBUTE_WORDS = """
black white red blue green yellow pink purple orange brown grey gray silver gold beige cream teal navy multicolor
small medium large mini new set pack piece pieces pcs pkg count size box case bundle series collection edition model
style color colour premium classic regular only other others misc miscellaneous assorted various variety general brand
brands store single individual one two three four six dozen half oz lb lbs ml cm mm kg ft sq inch inches gallon liter
litre watt amp volt
"""
_ATTRIBUTES = frozenset(_ATTRIBUTE_WORDS.split())
"""Adjectives, which are no keywords by themselves."""


@dataclass(frozen=True)
class KnownKeywords:
    """Distinct normalised texts and their counts in the log (int64 [m], 0: derived), most searched first."""

    texts: list[str]
    counts: Array


def known_keywords(products: pl.DataFrame, queries: pl.DataFrame | None, *, limit: int, least: int) -> KnownKeywords:
    """Collect the keywords of a catalogue.

    Args:
        products: the catalogue's products.
        queries: its search log, if it has one.
        limit: most keywords; those of the log first, by count, then categories, brands in categories, title phrases.
        least: least products in which a derived keyword must occur.
    """
    found: dict[str, int] = {}
    if queries is not None:
        counts: Counter[str] = Counter()
        for query, count in queries.iter_rows():
            counts[keyword_form(query)] += count
        found.update(counts.most_common())
    for text in _derived(products, least):
        found.setdefault(keyword_form(text), 0)
    kept = [(text, count) for text, count in found.items() if _usable(text)][:limit]
    return KnownKeywords([text for text, _ in kept], np.array([count for _, count in kept], np.int64))


def _usable(text: str) -> bool:
    return (
        2 <= len(text) <= MAX_KEYWORD_CHARACTERS
        and any(char.isalpha() for char in text)
        and bool(usable_candidates([text]))
    )


def _derived(products: pl.DataFrame, least: int) -> Iterator[str]:
    categories = [category for category in products["category"] if category]
    leaves = Counter(leaf_name(category) for category in categories)
    yield from (leaf for leaf, count in leaves.most_common() if count >= least and not set(leaf.split()) <= _ATTRIBUTES)
    parents = Counter(leaf_name(part) for category in categories for part in category.split(">")[:-1])
    yield from (parent for parent, count in parents.most_common() if count >= least)
    pairs = zip(products["brand"], products["category"], strict=True)
    branded = [(brand, category) for brand, category in pairs if brand]
    brands = Counter(brand for brand, _ in branded)
    yield from (brand for brand, count in brands.most_common() if count >= least)
    both = Counter(f"{brand} {leaf_name(category)}" for brand, category in branded if category)
    yield from (text for text, count in both.most_common() if count >= least)
    yield from _title_phrases(zip(products["title"], products["brand"], strict=True), least)


def _title_phrases(titles: Iterable[tuple[str, str]], least: int) -> Iterator[str]:
    """Frequent noun phrases of titles, without those that are nearly always a part of one longer phrase.

    A brand at the start of its title is removed: a part of a brand ("store" of "Store Brand") is no useful search.
    """
    counts: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for title, brand in titles:
        branded = bool(brand) and title.lower().startswith(f"{brand.lower()} ")
        found = phrases(title[len(brand) + 1 :] if branded else title, _LONGEST_PHRASE)
        counts.update({text for text, _ in found})
        ends.update({text for text, last in found if last})
    frequent = {text: count for text, count in counts.items() if count >= least and ends[text] >= _LEAST_END * count}
    inside: Counter[str] = Counter()
    for text, count in frequent.items():
        tokens = text.split()
        for part in {" ".join(tokens[:-1]), " ".join(tokens[1:])} - {""}:
            inside[part] = max(inside[part], count)
    # "dutch" is no keyword if nearly all of its titles contain "dutch oven".
    kept = [
        text for text, count in frequent.items() if inside[text] < 0.9 * count and not set(text.split()) <= _ATTRIBUTES
    ]
    yield from sorted(kept, key=lambda text: (-frequent[text], text))


class WordIndex:
    """Finds the products whose title, brand and category contain all words of a keyword."""

    def __init__(self, products: pl.DataFrame) -> None:
        postings: dict[str, array[int]] = {}
        columns = (products["title"], products["brand"], products["category"])
        for row, (title, brand, category) in enumerate(zip(*columns, strict=True)):
            for word in set(content_stems(f"{title} {brand} {category}")):
                postings.setdefault(word, array("i")).append(row)
        self._postings = {word: np.frombuffer(rows, np.int32) for word, rows in postings.items()}

    def find(self, text: str) -> Array:
        """Rows of the products that contain every word of ``text``, int32, ascending; none for a text without words."""
        lists = [self._postings.get(word) for word in dict.fromkeys(content_stems(text))]
        if not lists or any(rows is None for rows in lists):
            return np.zeros(0, np.int32)
        found, *others = sorted((rows for rows in lists if rows is not None), key=len)
        for rows in others:
            if not len(found):
                break
            # Lists are sorted: look the shorter one up in the longer one.
            places = np.minimum(np.searchsorted(rows, found), len(rows) - 1)
            found = found[rows[places] == found]
        return found
