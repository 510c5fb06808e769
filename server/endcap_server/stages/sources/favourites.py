"""CandidateSource: what sells now in the categories that the shopper buys from."""

import numpy as np

from endcap_server.stages.sources.profile import Profile
from endcap_server.stages.sources.source import Filter, Ranked, everything, first
from endcap_server.stages.sources.tables import SourceTables

_CATEGORIES = 30
_PER_CATEGORY = 30


def favourites(tables: SourceTables, profile: Profile, allowed: Filter = everything) -> Ranked:
    """New products of favourite categories: share of the category in the history, times the product's share in it.

    Each category gives its best products that may be shown.
    """
    category = tables.category[profile.history]
    tagged = category >= 0
    distinct, member = np.unique(category[tagged], return_inverse=True)
    share = np.bincount(member, profile.weights[tagged], len(distinct)) / max(float(profile.weights.sum()), 1e-9)
    best = np.argsort(-share, kind="stable")[:_CATEGORIES]
    lists, scores = [np.empty(0, np.int32)], [np.empty(0)]
    for position in best.tolist():
        start, end = tables.starts[distinct[position] : distinct[position] + 2]
        rows = first(tables.sellers[start:end], _PER_CATEGORY, allowed)
        lists.append(rows)
        scores.append(share[position] * tables.share_in_category[rows])
    rows, score = np.concatenate(lists), np.concatenate(scores)
    score[profile.place(rows) >= 0] = 0
    return Ranked.best(rows, score)
