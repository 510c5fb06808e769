"""The description of a shopper for LLM 1: kinds, brands and searches in one line."""

from datetime import date

import numpy as np

from endcap_server.shop import prompts
from endcap_server.shop.kinds import Kinds
from endcap_server.shop.store import ItemStore
from endcap_server.stages import contract
from endcap_server.stages.candidates import Candidates, interests, recency
from endcap_server.stages.expected_purchases import likely_kinds
from endcap_server.stages.nearest_client import NearestClient, found_or_none
from endcap_server.stages.retrieval_parameters import RetrievalParameters
from endcap_server.stages.status import StatusPart

_DUE, _BRANDS = 3, 3


class Description:
    """Describes shoppers.

    Args:
        store: The item store.
        kinds: Kinds of its products.
        nearest: Finds keywords in a catalogue without kinds.
        settings: Parameters of retrieval.
    """

    def __init__(self, store: ItemStore, kinds: Kinds, nearest: NearestClient, settings: RetrievalParameters) -> None:
        self._store, self._kinds, self._nearest, self._settings = store, kinds, nearest, settings

    def categories(self, history: np.ndarray, candidates: Candidates) -> np.ndarray:
        """Positions of the history's categories, best first: int32 [F]. Without a history, those of the candidates."""
        rows, weights = history, recency(len(history), self._settings.half_life)
        if not len(rows) and candidates.similarity.any():
            near = np.argsort(-candidates.similarity, kind="stable")[:20]
            rows, weights = candidates.rows[near], candidates.similarity[near]
        category = self._store.category[rows]
        tagged = category >= 0
        if not tagged.any():
            return np.empty(0, np.int32)
        totals = np.bincount(category[tagged], weights[tagged])
        best = np.argsort(-totals, kind="stable")[: prompts.MAX_FAVOURITES]
        return best[totals[best] > 0].astype(np.int32)

    async def favourites(self, history: np.ndarray, deadline_ns: int, status: StatusPart) -> list[str]:
        """What a shopper likes, best first: kinds of products, or the nearest keywords in a catalogue without kinds."""
        if self._kinds.names:
            return self._kinds.favourites(history, prompts.MAX_FAVOURITES, self._settings.half_life)
        vectors, _ = interests(self._store, history, self._settings.half_life, self._settings.interests)
        if not len(vectors):
            return []
        found = await found_or_none(self._nearest.keywords(vectors, 1, deadline_ns), status, whole=False)
        rows = found.rows.reshape(-1) if found is not None else np.empty(0, np.int32)
        return list(dict.fromkeys(self._store.keywords.take(rows[rows >= 0])))

    def likely(
        self, candidates: Candidates, worth: np.ndarray, history: np.ndarray, products: int
    ) -> tuple[list[str], list[str]]:
        """Kinds that a shopper buys and kinds that come next, see `likely_kinds`."""
        bought, new = likely_kinds(self._kinds, candidates, worth, history, products)
        return bought[: prompts.MAX_FAVOURITES], new[: prompts.MAX_NEXT]

    def text(
        self,
        history: np.ndarray,
        liked: list[str],
        following: list[str],
        session: tuple[str, ...],
        request: contract.Request,
    ) -> str:
        """The shopper text for LLM 1: of what the shopper likes, of what comes next, of the session's searches."""
        store, settings = self._store, self._settings
        brands = [store.brands[i] if i >= 0 else "" for i in store.brand[history].tolist()]
        season = (
            "" if settings.seasons == "none" else prompts.season_of(date.today(), southern=settings.seasons == "south")
        )
        return prompts.shopper_text(
            likes=self._kinds.lists(liked, following),
            new_kinds=following,
            due_kinds=self._kinds.due(history, _DUE),
            brands=prompts.favourites(brands, _BRANDS, settings.half_life),
            session=session,
            season=season,
            campaign=request.rules.campaign,
        )
