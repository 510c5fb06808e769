"""Candidates of a search, by vectors and words of the query only; they are the same for every shopper."""

import asyncio

import numpy as np

from endcap_server.shop import prompts
from endcap_server.shop.store import ItemStore
from endcap_server.stages import contract
from endcap_server.stages.allowed import Allowed
from endcap_server.stages.candidates import Found, fuse, merge
from endcap_server.stages.documents import AnsweredSearch
from endcap_server.stages.nearest_client import NearestClient, Words, found_or_none
from endcap_server.stages.retrieval_parameters import RetrievalParameters
from endcap_server.stages.status import StatusPart


class SearchCandidates:
    """Finds the candidates of queries.

    Args:
        store: The item store.
        nearest: Client of the engine.
        popular: int32 [n], all products, in the order in which they replace missing results.
        settings: Parameters of retrieval.
    """

    def __init__(
        self, store: ItemStore, nearest: NearestClient, popular: np.ndarray, settings: RetrievalParameters
    ) -> None:
        self._store, self._nearest, self._popular, self._settings = store, nearest, popular, settings

    async def search(
        self, query: str, products: int, allowed: Allowed, deadline_ns: int, status: StatusPart
    ) -> tuple[Found, np.ndarray]:
        """Candidates of a query, and the known keywords with the same meaning (int32 [K], -1 padded)."""
        settings = self._settings
        equal = self._store.keywords.find([prompts.clean(query, contract.MAX_TEXT_CHARACTERS).lower()])[0]
        keyword_rows = np.full(settings.search_keywords, -1, np.int32)
        keyword_rows[0] = equal
        count = max(settings.search_candidates, products)
        near, words, keywords = await asyncio.gather(
            found_or_none(self._nearest.products([query], count, deadline_ns, allowed.bits), status),
            found_or_none(self._nearest.words(query, count, deadline_ns, allowed.bits), status, whole=False),
            found_or_none(self._nearest.keywords([query], settings.search_keywords, deadline_ns), status, whole=False),
        )
        if keywords is not None:
            rows, similarity = keywords.rows[0], keywords.similarity[0]
            alike = rows[(rows >= 0) & (rows != equal) & (similarity >= settings.search_keyword_similarity)]
            alike = alike[: len(keyword_rows) - (equal >= 0)]
            keyword_rows[int(equal >= 0) : int(equal >= 0) + len(alike)] = alike
        if near is not None:
            words = words or Words.none()
            weight = settings.search_words
            return fuse(self._store.vectors, near.vectors[0], near.rows[0], words, weight, count), keyword_rows
        known = self._store.keyword_products[equal] if equal >= 0 else np.empty(0, np.int32)
        rows = np.concatenate([known, allowed.first(self._popular, count)])
        without = merge(allowed, rows[None], np.zeros((1, len(rows)), np.float32), np.ones(1), count)
        return Found.of(without.rows, without.similarity), keyword_rows

    async def answer(
        self, session: tuple[str, ...], products: int, allowed: Allowed, deadline_ns: int, status: StatusPart
    ) -> tuple[AnsweredSearch, ...]:
        """The results of a session's latest searches, newest first, as `search` has them; each gets a placement."""
        texts = [prompts.clean(text, prompts.CONCEPT_CHARACTERS).lower() for text in reversed(session)]
        latest = [text for text in dict.fromkeys(texts) if text][: self._settings.session_placements]
        count = max(self._settings.session_products, products)
        answers = await asyncio.gather(*(self.search(text, products, allowed, deadline_ns, status) for text in latest))
        return tuple(
            AnsweredSearch(
                text=text,
                rows=tuple(found.rows[:count].tolist()),
                similarity=tuple(np.nan_to_num(found.similarity[:count]).tolist()),
                lexical=tuple(np.nan_to_num(found.lexical[:count]).tolist()),
            )
            for text, (found, _) in zip(latest, answers, strict=True)
            if len(found.rows)
        )
