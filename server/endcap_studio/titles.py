"""Finds products by words of their titles while a person types, also among a million."""

from bisect import bisect_right
from collections.abc import Iterable

import numpy as np
from endcap_server.shop.columns import Array

_MOST_FOUND = 1_000
"""Products that are looked at before the best sellers of them are chosen: a bound on the time."""


class TitleSearch:
    """Texts of all products in one block of memory, searched by substring.

    Args:
        titles: Of the products, in the order of the store.
        brands: Brand of each, "" for none.
        weight: float [n], products with a larger one come first.
    """

    def __init__(self, titles: Iterable[str], brands: Iterable[str], weight: Array) -> None:
        joined = (f"{title} {brand}".replace("\n", " ") for title, brand in zip(titles, brands, strict=True))
        self._block = "\n".join(joined).casefold().encode()
        ends = np.flatnonzero(np.frombuffer(self._block, np.uint8) == ord("\n"))
        self._starts: list[int] = [0, *(ends + 1).tolist()]
        self._weight = weight

    def find(self, text: str, count: int) -> list[int]:
        """Rows of products that have every word of `text`, as parts of words too; best sellers first."""
        words = sorted((word.encode() for word in text.casefold().split()), key=len, reverse=True)
        if not words:
            return []
        found: list[int] = []
        place = self._block.find(words[0])
        while place >= 0 and len(found) < _MOST_FOUND:
            row = bisect_right(self._starts, place) - 1
            end = self._starts[row + 1] - 1 if row + 1 < len(self._starts) else len(self._block)
            line = self._block[self._starts[row] : end]
            if all(word in line for word in words[1:]):
                found.append(row)
            place = self._block.find(words[0], end)
        found.sort(key=lambda row: -float(self._weight[row]))
        return found[:count]
