"""Cache of pair scores: popular queries and themes are scored against the same products repeatedly."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from endcap_server.shop.columns import Array

LONGEST_TEXT = 512
"""Characters of the longest text that is cached; a bound on memory."""


class ScoreCache:
    """Logits by text and product row; evicts the least recently used texts. Not thread-safe."""

    def __init__(self, capacity: int) -> None:
        """Keep at most about `capacity` pairs (some 100 bytes each); 0 keeps none."""
        self.capacity = capacity
        self._logits: OrderedDict[str, dict[int, float]] = OrderedDict()
        self._pairs = 0
        self._hits = self._misses = 0

    def __len__(self) -> int:
        return self._pairs

    def look_up(self, texts: Sequence[str], rows: Array) -> Array:
        """Cached logits of texts and their products (rows int [T, M], -1 padded): float32 [T, M], NaN unknown."""
        known = np.full(rows.shape, np.nan, np.float32)
        for line, text in enumerate(texts):
            logits = self._logits.get(text)
            if logits is not None:
                self._logits.move_to_end(text)
                known[line] = [logits.get(row, np.nan) for row in rows[line].tolist()]
        hits = known.size - int(np.isnan(known).sum())
        self._hits += hits
        self._misses += int((rows >= 0).sum()) - hits
        return known

    def take_use(self) -> tuple[int, int]:
        """Hits and misses (pairs) since the last call."""
        use, self._hits, self._misses = (self._hits, self._misses), 0, 0
        return use

    def keep(self, text: str, rows: Array, logits: Array) -> None:
        """Keep the logits (float [m]) of a text and products (int [m])."""
        if not self.capacity or len(text) > LONGEST_TEXT:
            return
        own = self._logits.setdefault(text, {})
        self._logits.move_to_end(text)
        self._pairs -= len(own)
        own.update(zip(rows.tolist(), logits.tolist(), strict=True))
        self._pairs += len(own)
        while self._pairs > self.capacity:
            _, oldest = self._logits.popitem(last=False)
            self._pairs -= len(oldest)
