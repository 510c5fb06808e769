"""Candidates of a shopper's page, from all sources by their shares (`endcap_server.stages.sources`)."""

import numpy as np

from endcap_server.declared.reasons import Source
from endcap_server.shop.store import ItemStore
from endcap_server.stages.allowed import Allowed
from endcap_server.stages.candidates import Candidates, blend_with_history, interests, merge
from endcap_server.stages.nearest_client import NearestClient, found_or_none
from endcap_server.stages.retrieval_parameters import RetrievalParameters
from endcap_server.stages.sources import CandidateSource, Ranked, ShopperSources
from endcap_server.stages.status import StatusPart


class ShopperCandidates:
    """Finds the candidates of shoppers.

    Args:
        store: The item store.
        nearest: Client of the engine, for products near the shopper's interests.
        sources: The other sources.
        popular: int32 [n], all products, in the order in which they replace missing candidates.
        settings: Parameters of retrieval.
    """

    def __init__(
        self,
        store: ItemStore,
        nearest: NearestClient,
        sources: ShopperSources,
        popular: np.ndarray,
        settings: RetrievalParameters,
    ) -> None:
        self._store, self._nearest, self._sources = store, nearest, sources
        self._popular, self._settings = popular, settings

    async def find(
        self,
        history: np.ndarray,
        session: tuple[str, ...],
        allowed: Allowed,
        deadline_ns: int,
        status: StatusPart,
    ) -> Candidates:
        """Candidates of a shopper, from all sources by their shares."""
        settings = self._settings
        near = await self._near(history, session, allowed, deadline_ns, status)
        if near is not None:
            others = {CandidateSource.VECTOR: near.rows}
        else:
            if status.source != Source.FALLBACK:
                status.extra["candidates_from"] = "popularity"
            # Without behaviour, there is no other source.
            sold = self._sources.tables.behaviour.by_popularity
            others = {} if len(sold) else {CandidateSource.POPULAR: allowed.first(self._popular, settings.candidates)}
        turns = settings.turns(session=bool(session))
        found = self._sources.find(history, others, turns, allowed.among, settings.candidates)
        similarity = np.zeros(len(found.rows), np.float32)
        if near is not None:
            similarity = Ranked(near.rows, near.similarity).of(found.rows)
        return Candidates(found.rows, similarity, found.sources)

    async def _near(
        self,
        history: np.ndarray,
        session: tuple[str, ...],
        allowed: Allowed,
        deadline_ns: int,
        status: StatusPart,
    ) -> Candidates | None:
        """Products near the history's interests and the session's searches; None without either, or after a failure."""
        settings = self._settings
        vectors, weights = interests(self._store, history, self._settings.half_life, self._settings.interests)
        if texts := list(dict.fromkeys(session[-settings.session_used :])):
            encoded = await found_or_none(self._nearest.encode(texts, deadline_ns), status)
            if encoded is not None:
                blended = blend_with_history(self._store, encoded, history, settings.half_life, settings.session_blend)
                of_session = settings.session_weight * 0.8 ** np.arange(len(texts))[::-1]
                vectors, weights = np.concatenate([vectors, blended]), np.concatenate([weights, of_session])
        if not len(vectors):
            return None
        search = self._nearest.products(vectors, settings.candidates, deadline_ns, allowed.bits)
        found = await found_or_none(search, status)
        if found is None:
            return None
        return merge(allowed, found.rows, found.similarity, weights, settings.candidates)
