"""CandidateSource: what sells now."""

import numpy as np

from endcap_server.stages.sources.profile import Profile
from endcap_server.stages.sources.source import Ranked
from endcap_server.stages.sources.tables import SourceTables


def popular(tables: SourceTables, profile: Profile, count: int) -> Ranked:
    """The ``count`` best-selling products (recency-weighted) that are not in the history."""
    rows = tables.behaviour.by_popularity[: count + len(profile.items)]
    rows = rows[profile.place(rows) < 0][:count]
    recent: np.ndarray = tables.behaviour.recent[rows]
    return Ranked(rows, recent)
