"""All sources for one shopper."""

from collections.abc import Mapping

import numpy as np

from endcap_server.shop.behaviour import Behaviour
from endcap_server.shop.store import ItemStore
from endcap_server.stages.sources.combined import Combined, combine
from endcap_server.stages.sources.favourites import favourites
from endcap_server.stages.sources.popular import popular
from endcap_server.stages.sources.profile import Profile
from endcap_server.stages.sources.repeats import repeats
from endcap_server.stages.sources.source import CandidateSource, Filter
from endcap_server.stages.sources.tables import SourceTables
from endcap_server.stages.sources.together import together


class ShopperSources:
    """The sources of behaviour over one build; open it once."""

    def __init__(self, store: ItemStore, behaviour: Behaviour):
        self.tables = SourceTables.of(behaviour, np.asarray(store.category), store.categories)

    def find(
        self,
        history: np.ndarray,
        others: Mapping[CandidateSource, np.ndarray],
        shares: Mapping[CandidateSource, float],
        allowed: Filter,
        count: int,
    ) -> Combined:
        """Find a shopper's candidates.

        Args:
            history: int [h], oldest first.
            others: int [k], best first, lists of sources that do not use behaviour.
            shares: of all sources, see :func:`combine`.
            allowed: filters rows that may be shown, in their order.
            count: most candidates.
        """
        tables, profile = self.tables, Profile.of(history)
        lists = {
            CandidateSource.REPEAT: repeats(tables, profile).rows,
            CandidateSource.TOGETHER: together(tables, profile).rows,
            CandidateSource.POPULAR: popular(tables, profile, count, allowed).rows,
            CandidateSource.CATEGORY: favourites(tables, profile, allowed).rows,
        }
        return combine({**lists, **others}, shares, allowed, count)
