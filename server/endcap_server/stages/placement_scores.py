"""Relevance, margin and similarity of a page's placements and their products, from postings and from the engines."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from endcap_server.shop.kinds import Kinds
from endcap_server.shop.postings import Postings
from endcap_server.shop.prompts import keyword_form
from endcap_server.shop.store import ItemStore
from endcap_server.stages.posted_pairs import Placement, PostedPairs
from endcap_server.stages.status import StatusPart

RETRIEVALS_ORDER = "{error}; products are in retrieval's order"
_ESTIMATED = "{error}; the relevance of pairs without a posting is estimated from similarity"

Similarity = Callable[[Sequence[str], np.ndarray, int, StatusPart], Awaitable[np.ndarray]]
"""Cosine of texts [T] and their products int32 [T, M]: float32 [T, M], by a deadline."""


class Score(Protocol):
    """Relevance and margin by the cross-encoder."""

    async def __call__(
        self, texts: Sequence[str], rows: np.ndarray, deadline_ns: int, status: StatusPart, sentence: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Relevance and margin float32 [T, M] of texts [T] and their products int32 [T, M]; NaN where it fails.

        Args:
            texts: T texts.
            rows: Products, -1 padded.
            deadline_ns: By ``time.monotonic_ns``.
            status: Takes what goes wrong.
            sentence: What follows from that, see :meth:`StatusPart.fall_back_on`.
        """


class PlacementScores:
    """Scores placements.

    Args:
        store: Products and keywords.
        kinds: Kinds of products.
        postings: Of the build; without any, the cross-encoder scores every pair.
        online_pairs: Pairs of a page without a posting that it scores.
        score: Asks the cross-encoder.
        similarity: Asks the bi-encoder.
    """

    def __init__(
        self,
        store: ItemStore,
        kinds: Kinds,
        postings: Postings,
        online_pairs: int,
        score: Score,
        similarity: Similarity,
    ):
        self._store, self._kinds, self._postings = store, kinds, postings
        self._online_pairs, self._score, self._similarity = online_pairs, score, similarity

    async def __call__(
        self, placements: Sequence[Placement], rows: np.ndarray, deadline_ns: int, status: StatusPart
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Relevance, margin and similarity float32 [T, M], NaN unknown, of placements and products int32 [T, M]."""
        score = self._by_postings if self._postings.known else self._by_texts
        return await score(placements, rows, deadline_ns, status)

    async def _by_postings(
        self, placements: Sequence[Placement], rows: np.ndarray, deadline_ns: int, status: StatusPart
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `_by_texts`, but only pairs without a posting are scored, up to a number of them.

        When the cross-encoder fails, the relevance of these pairs is estimated.
        """
        pairs = PostedPairs.of(self._postings, self._store, self._kinds, placements, rows)
        online, similarity = await asyncio.gather(
            self._online(pairs, self._online_pairs, deadline_ns, status),
            self._similarity([each.text for each in placements], rows, deadline_ns, status),
        )
        relevance, margin, status.extra["relevance_from"] = pairs.measured(online, similarity)
        return relevance, margin, similarity

    async def of_search(
        self, text: str, rows: np.ndarray, deadline_ns: int, status: StatusPart
    ) -> tuple[np.ndarray, np.ndarray]:
        """Relevance and margin float32 [1, M] of a search and products int32 [1, M], NaN where -1 or unknown.

        The postings of a keyword that says the same are those of the search; all other pairs are scored.
        """
        keyword = self.keyword_of(text)
        if not len(keyword):
            return await self._score([text], rows, deadline_ns, status, RETRIEVALS_ORDER)
        pairs = PostedPairs.of(self._postings, self._store, self._kinds, [Placement(text, keyword, {})], rows)
        online = await self._online(pairs, rows.size, deadline_ns, status)
        relevance, margin, status.extra["relevance_from"] = pairs.measured(online, pairs.cosine)
        return relevance, margin

    def keyword_of(self, search: str) -> np.ndarray:
        """The known keyword that says the same as a search, if it has postings: int32 [0 or 1]."""
        found = self._store.keywords.find([keyword_form(search)])
        return found[(found >= 0) & (found < len(self._postings.rows))]

    async def _online(self, pairs: PostedPairs, most: int, deadline_ns: int, status: StatusPart) -> np.ndarray:
        """Relevance float32 [T, M] of at most ``most`` pairs without a posting by the cross-encoder, NaN elsewhere."""
        places: dict[str, list[tuple[int, int]]] = {}
        for index, at in np.argwhere(pairs.asked(most)).tolist():
            places.setdefault(pairs.texts[index][at], []).append((index, at))
        asked = {text: np.array(found) for text, found in places.items()}
        return (await self._of_places(asked, pairs.rows, deadline_ns, status, _ESTIMATED))[0]

    async def _by_texts(
        self, placements: Sequence[Placement], rows: np.ndarray, deadline_ns: int, status: StatusPart
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Relevance, margin and similarity float32 [T, M] of placements and their products.

        A product of a kind that its theme names is compared with that name instead of the whole text: a theme of three
        kinds is no text about one of their products. And the pairs of kinds and products are the same for all shoppers,
        so that the engine has most of them in its cache.

        Args:
            placements: T placements.
            rows: int32 [T, M], products, -1 padded.
            deadline_ns: see `Score`.
            status: takes what goes wrong.
        """
        kinds = np.where(rows >= 0, self._kinds.of_product[rows], -1)
        places: dict[str, list[np.ndarray]] = {}
        for index, placement in enumerate(placements):
            left = rows[index] >= 0
            for kind, name in placement.kinds.items():
                own = left & (kinds[index] == kind)
                left &= ~own
                if own.any():
                    places.setdefault(name, []).append(_of_line(index, own))
            if left.any():
                places.setdefault(placement.text, []).append(_of_line(index, left))
        (relevance, margin), similarity = await asyncio.gather(
            self._of_places({text: np.concatenate(found) for text, found in places.items()}, rows, deadline_ns, status),
            self._similarity([each.text for each in placements], rows, deadline_ns, status),
        )
        return relevance, margin, similarity

    async def _of_places(
        self,
        places: Mapping[str, np.ndarray],
        rows: np.ndarray,
        deadline_ns: int,
        status: StatusPart,
        sentence: str = RETRIEVALS_ORDER,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Relevance and margin float32 [T, M] by the cross-encoder; NaN where nothing is asked.

        ``places`` has, for each text, the places in ``rows`` of its products: int64 [n, 2].
        """
        columns = [np.unique(rows[tuple(found.T)]) for found in places.values()]
        asked = np.full((len(columns), max(map(len, columns), default=0)), -1, np.int32)
        for line, column in enumerate(columns):
            asked[line, : len(column)] = column
        scores = await self._score(list(places), asked, deadline_ns, status, sentence)
        answers = tuple(np.full(rows.shape, np.nan, np.float32) for _ in scores)
        for line, found in enumerate(places.values()):
            at = tuple(found.T)
            where = np.searchsorted(columns[line], rows[at])
            for answer, score in zip(answers, scores, strict=True):
                answer[at] = score[line, where]
        return answers[0], answers[1]


def _of_line(line: int, which: np.ndarray) -> np.ndarray:
    """The places of a line, bool [m]: int64 [n, 2]."""
    at = np.flatnonzero(which)
    return np.stack([np.full(len(at), line), at], axis=1)
