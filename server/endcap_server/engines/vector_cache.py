"""Vectors of texts that were encoded before: searches and concepts come again and again."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from endcap_server.shop.columns import Array

LONGEST_TEXT = 512
"""Longer texts are not kept, so that nobody fills the memory with them; characters."""


class VectorCache:
    """Encodes texts, each once while it is remembered; forgets what was asked for longest ago. Not thread-safe."""

    def __init__(self, encode: Callable[[Sequence[str]], Array], capacity: int) -> None:
        """Keep the vectors of at most `capacity` texts; `encode` makes them, float32 [len(texts), D]."""
        self._encode, self._capacity = encode, capacity
        self._vectors: OrderedDict[str, Array] = OrderedDict()
        self._hits = self._misses = 0

    def __len__(self) -> int:
        return len(self._vectors)

    def encode(self, texts: Sequence[str]) -> Array:
        """Vectors of the texts, float32 [len(texts), D]."""
        if not len(texts):
            return self._encode(texts)
        missing = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        self._hits += len(texts) - len(missing)
        self._misses += len(missing)
        # Copies: a row of the batch would keep the whole batch alive.
        fresh = dict(zip(missing, (vector.copy() for vector in self._encode(missing)), strict=True)) if missing else {}
        vectors = np.stack([fresh[text] if text in fresh else self._vectors[text] for text in texts])
        for text in texts:
            if text in fresh and len(text) <= LONGEST_TEXT:
                self._vectors[text] = fresh[text]
            if text in self._vectors:
                self._vectors.move_to_end(text)
        while len(self._vectors) > self._capacity:
            self._vectors.popitem(last=False)
        return vectors

    def take_use(self) -> tuple[int, int]:
        """Texts that were known, and that were not, since this was last asked."""
        use, self._hits, self._misses = (self._hits, self._misses), 0, 0
        return use
