"""CandidateSource: products of the history that shoppers buy again."""

import numpy as np

from endcap_server.stages.sources.profile import Profile
from endcap_server.stages.sources.source import Ranked
from endcap_server.stages.sources.tables import SourceTables


def repeats(tables: SourceTables, profile: Profile) -> Ranked:
    """Products of the history by recency-weighted count times the share of their buyers who buy again.

    Durable goods have a low share, so they come last.
    """
    again: np.ndarray = profile.weight * tables.behaviour.repeat[profile.items]
    return Ranked.best(profile.items, again)
