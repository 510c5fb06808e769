"""CandidateSource: products that are bought by the same shoppers as those of the history."""

import numpy as np

from endcap_server.stages.sources.profile import Profile
from endcap_server.stages.sources.source import Ranked
from endcap_server.stages.sources.tables import SourceTables

_ITEMS = 200
_RECENT = 10


def together(tables: SourceTables, profile: Profile) -> Ranked:
    """Neighbours of the history's products by the sum of their nearness, without products of the history."""
    latest = np.argsort(-profile.last, kind="stable")[:_ITEMS]
    return _neighbours(tables, profile, profile.items[latest], np.sqrt(profile.weight[latest]))


def together_with_last(tables: SourceTables, profile: Profile) -> Ranked:
    """The same for the last 10 distinct products only: what goes with the last basket."""
    latest = np.argsort(-profile.last, kind="stable")[:_RECENT]
    return _neighbours(tables, profile, profile.items[latest], np.ones(len(latest)))


def _neighbours(tables: SourceTables, profile: Profile, items: np.ndarray, weights: np.ndarray) -> Ranked:
    if not len(items):
        return Ranked(np.empty(0, np.int32), np.empty(0, np.float32))
    rows = tables.behaviour.neighbour[items]
    nearness = tables.behaviour.nearness[items].astype(np.float32) * weights[:, None]
    known = rows >= 0
    distinct, member = np.unique(rows[known], return_inverse=True)
    score = np.bincount(member, nearness[known], len(distinct)) / max(float(np.linalg.norm(weights)), 1e-9)
    score[profile.place(distinct) >= 0] = 0
    return Ranked.best(distinct, score)
