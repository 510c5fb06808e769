"""Sources of a shopper's candidate products, one module each, and the merging of their lists.

Every source is a function of the shopper's history only, a list of product rows without times. The ranker is therefore
trained on the same candidates that are served.
"""

from endcap_server.stages.sources.combined import Combined, combine
from endcap_server.stages.sources.profile import HISTORY_ITEMS, Profile
from endcap_server.stages.sources.shopper import ShopperSources
from endcap_server.stages.sources.source import CandidateSource, Ranked, first
from endcap_server.stages.sources.tables import SourceTables

__all__ = [
    "HISTORY_ITEMS",
    "CandidateSource",
    "Combined",
    "Profile",
    "Ranked",
    "ShopperSources",
    "SourceTables",
    "combine",
    "first",
]
