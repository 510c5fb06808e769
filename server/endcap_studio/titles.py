"""Finds products by words of their titles while a person types, also among a million."""

from bisect import bisect_right
from collections.abc import Iterable

import numpy as np
from endcap_server.shop.columns import Array

_MOST_FOUND = 1_000
"""Products that are found before the best sellers of them are chosen."""
_MOST_LOOKED = 15_000
"""Products with the rarest of the words that are looked at for the others: a bound on the time."""
_SAMPLED_BYTES, _PIECE_BYTES = 1 << 20, 4096


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
        step = max(_PIECE_BYTES, len(self._block) * _PIECE_BYTES // _SAMPLED_BYTES)
        pieces = (self._block[place : place + _PIECE_BYTES] for place in range(0, len(self._block), step))
        self._sample = b"".join(pieces)

    def find(self, text: str, count: int) -> list[int]:
        """Rows of products that have every word of `text`, as parts of words too; best sellers first."""
        words = [word.encode() for word in text.casefold().split()]
        if not words:
            return []
        words.sort(key=lambda word: (self._sample.count(word), -len(word)))
        found: list[int] = []
        looked, place = 0, self._block.find(words[0])
        while place >= 0 and len(found) < _MOST_FOUND and looked < _MOST_LOOKED:
            looked += 1
            row = bisect_right(self._starts, place) - 1
            end = self._starts[row + 1] - 1 if row + 1 < len(self._starts) else len(self._block)
            line = self._block[self._starts[row] : end]
            if all(word in line for word in words[1:]):
                found.append(row)
            place = self._block.find(words[0], end)
        found.sort(key=lambda row: -float(self._weight[row]))
        return found[:count]
