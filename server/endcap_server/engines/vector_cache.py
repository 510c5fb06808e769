"""Cache of text vectors: searches and concepts recur."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from endcap_server.shop.columns import Array

LONGEST_TEXT = 512
"""Characters of the longest text that is cached; a bound on memory."""


class VectorCache:
    """Encodes texts that are not cached; evicts the least recently used ones. Not thread-safe."""

    def __init__(self, encode: Callable[[Sequence[str]], Array], capacity: int) -> None:
        """Cache the vectors of at most `capacity` texts; `encode` computes them, float32 [len(texts), D]."""
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
        # Copies, because a row of the batch would keep the whole batch in memory.
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
        """Hits and misses (texts) since the last call."""
        use, self._hits, self._misses = (self._hits, self._misses), 0, 0
        return use
