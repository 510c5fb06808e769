"""Lookup tables of the sources, derived once from a build's tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from endcap_server.shop.behaviour import Behaviour
from endcap_server.shop.columns import Array


@dataclass(frozen=True)
class SourceTables:
    """Behaviour by category; n products, c categories.

    Attributes:
        behaviour: Of the products.
        category: int32 [n], position of the category, -1 none.
        parent: int32 [n], the category above (for a top category, itself), -1 none.
        share_in_category: float32 [n], share of its category's recent purchases, 0..1.
        share_in_parent: float32 [n], the same for the category above.
        sellers: int32 [s], products with recent purchases, grouped by category, best first.
        starts: int64 [c + 1], start of each category in ``sellers``.
    """

    behaviour: Behaviour
    category: Array
    parent: Array
    share_in_category: Array
    share_in_parent: Array
    sellers: Array
    starts: Array

    @classmethod
    def of(cls, behaviour: Behaviour, category: Array, categories: Sequence[str]) -> "SourceTables":
        """Derive them for ``category`` (int [n]), positions in the paths ``categories``."""
        parent = _parents(categories)[category]
        order = np.lexsort((-behaviour.recent, category))
        order = order[(behaviour.recent[order] > 0) & (category[order] >= 0)]
        return cls(
            behaviour=behaviour,
            category=category,
            parent=parent,
            share_in_category=_share(behaviour.recent, category),
            share_in_parent=_share(behaviour.recent, parent),
            sellers=order.astype(np.int32),
            starts=np.searchsorted(category[order], np.arange(len(categories) + 1)),
        )


def _share(values: Array, group: Array) -> Array:
    """Share of each value in the sum of its group (int [n], -1 none); 0 without a group: float32 [n]."""
    totals = np.bincount(group + 1, values, minlength=2)
    totals[0] = 0
    total = totals[group + 1]
    return np.where(total > 0, values / np.maximum(total, 1e-9), 0).astype(np.float32)


def _parents(categories: Sequence[str]) -> Array:
    """Id of the category above each one (for a top category, itself). The last entry, -1, is for index -1."""
    ids: dict[str, int] = {}
    parents = [ids.setdefault(path.rpartition(" > ")[0] or path, len(ids)) for path in categories]
    return np.array([*parents, -1], np.int32)
