"""CandidateSource: what sells now."""

import numpy as np

from endcap_server.stages.sources.profile import Profile
from endcap_server.stages.sources.source import Filter, Ranked, everything, first
from endcap_server.stages.sources.tables import SourceTables


def popular(tables: SourceTables, profile: Profile, count: int, allowed: Filter = everything) -> Ranked:
    """The ``count`` best-selling products (recency-weighted) that may be shown and are not in the history."""
    rows = first(tables.behaviour.by_popularity, count + len(profile.items), allowed)
    rows = rows[profile.place(rows) < 0][:count]
    recent: np.ndarray = tables.behaviour.recent[rows]
    return Ranked(rows, recent)
