"""The known keywords for the merchandiser: their topics, and the nearest ones of a text."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from endcap_server.shop.words import stems

from endcap_builders.merchandising.statistics import Statistics
from endcap_builders.merchandising.topics import Array

Embed = Callable[[Sequence[str]], Array]
"""Texts to unit vectors float32 [n, D] of the item store's space."""

_NEAR = 24


class Vocabulary:
    """Known keywords, and other texts by their vectors."""

    def __init__(self, statistics: Statistics, embed: Embed) -> None:
        self.statistics, self.embed = statistics, embed
        self.vectors = statistics.store.keyword_vectors.astype(np.float32)
        self.row = {text: row for row, text in enumerate(statistics.store.keywords)}
        topics = statistics.topics
        self._topic_of_name = topics.by_name()
        self._concept_rows = np.flatnonzero(topics.conceptual & (topics.of_keyword >= 0))
        self._concept_vectors = self.vectors[self._concept_rows]
        self._cache: dict[str, Array] = {}
        self._near: dict[str, list[str]] = {}
        self._topic_near: dict[str, int] = {}

    def prepare(self, texts: Iterable[str]) -> None:
        """Embed, in one batch, the texts that are not known keywords."""
        missing = [t for t in dict.fromkeys(texts) if t not in self.row and t not in self._cache]
        if missing:
            self._cache.update(zip(missing, self.embed(missing), strict=True))

    def vector(self, text: str) -> Array:
        """Vector of a text, float32 [D]; known keywords need no encoding."""
        row = self.row.get(text)
        if row is not None:
            return self.vectors[row]
        self.prepare([text])
        return self._cache[text]

    def topics_of(self, concepts: Sequence[str]) -> dict[int, float]:
        """Topics that a theme is about, by the share of its concepts that belong to each."""
        found: dict[int, float] = {}
        for text in concepts:
            topic = self._topic_of(text)
            if topic >= 0:
                found[topic] = found.get(topic, 0.0) + 1.0 / len(concepts)
        return found

    def nearest_concepts(self, text: str, count: int) -> list[str]:
        """Known keywords near a text, of different words."""
        if text not in self._near:
            self.find_near([text])
        return self._near[text][:count]

    def find_near(self, texts: Iterable[str]) -> None:
        """Find the keywords near many texts at once; only keywords that show products of one kind."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._near]
        self.prepare(missing)
        names = self.statistics.store.keywords
        for start in range(0, len(missing), 256):
            part = missing[start : start + 256]
            similarity = np.stack([self.vector(text) for text in part]) @ self._concept_vectors.T
            count = min(_NEAR, similarity.shape[1])
            best = (
                np.argpartition(-similarity, count - 1, axis=1)[:, :count] if count else np.empty((len(part), 0), int)
            )
            for text, columns, values in zip(part, best, similarity, strict=True):
                found = {stems(text): text}
                for column in sorted(columns.tolist(), key=lambda c: -values[c]):
                    keyword = names[int(self._concept_rows[column])]
                    found.setdefault(stems(keyword), keyword)
                self._near[text] = list(found.values())[1:]

    def _topic_of(self, text: str) -> int:
        row = self.row.get(text)
        topic = self._topic_of_name.get(text, -1) if row is None else int(self.statistics.topics.of_keyword[row])
        if topic >= 0:
            return topic
        if text not in self._topic_near:
            # Not a keyword of one topic: use the topics of its nearest keywords.
            similarity = self.vectors @ self.vector(text)
            near = np.argpartition(-similarity, min(4, len(similarity) - 1))[:5]
            topics = self.statistics.topics.of_keyword[near]
            topics = topics[topics >= 0]
            self._topic_near[text] = int(np.bincount(topics).argmax()) if len(topics) else -1
        return self._topic_near[text]
