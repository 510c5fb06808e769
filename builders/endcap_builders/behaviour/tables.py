"""Computes the tables of :class:`endcap_server.shop.behaviour.Behaviour` from events."""

import numpy as np
from endcap_server.shop.behaviour import NEIGHBOURS, Behaviour
from pydantic import Field
from scipy import sparse

from endcap_builders.behaviour.log import Array, EventLog
from endcap_builders.step import Settings

_BLOCK = 2048


class BehaviourSettings(Settings):
    """Options of the behaviour tables."""

    half_life_days: float = Field(28.0, gt=0, description="days after which a purchase counts half in what sells now")
    repeat_damping: float = Field(5.0, gt=0, description="buyers whose behaviour a product has of its category")
    nearness_damping: float = Field(3.0, ge=0, description="how much less near products with few buyers are")
    shopper_products: int = Field(
        500, ge=2, description="distinct products of a shopper, the most bought, that count as bought together"
    )


def behaviour_of(log: EventLog, now: int, category: Array, settings: BehaviourSettings) -> Behaviour:
    """Compute the tables as of the day ``now``; every event of the log must be earlier.

    Args:
        log: e events.
        now: days since 1970.
        category: int32 [n], -1 none.
        settings: of the step.
    """
    if not len(log):
        return Behaviour.empty(log.products)
    days = np.stack([log.shopper, log.row, log.day])[:, log.bought]
    shopper, row, day = np.unique(days, axis=1)
    weight = np.exp2(-np.maximum(now - day, 0) / settings.half_life_days)
    pair_start = np.flatnonzero(np.r_[True, (shopper[1:] != shopper[:-1]) | (row[1:] != row[:-1])])
    times = np.diff(np.r_[pair_start, len(row)])
    buyer, product = shopper[pair_start], row[pair_start]

    def count(rows: Array, weights: Array | None = None) -> Array:
        return np.bincount(rows, weights, log.products).astype(np.float32)

    # Only shoppers with later events can show whether a product is bought again.
    last_day = np.full(int(log.shopper.max()) + 1, np.iinfo(np.int64).min)
    np.maximum.at(last_day, log.shopper, log.day)
    returned = last_day[buyer] > day[pair_start]
    neighbour, nearness = _neighbours(log, settings)
    return Behaviour(
        recent=count(row, weight),
        first=count(product, weight[pair_start]),
        bought=count(row),
        shoppers=count(product),
        repeat=_repeat(count(product[returned]), count(product[returned & (times > 1)]), category, settings),
        neighbour=neighbour,
        nearness=nearness,
    )


def _repeat(buyers: Array, again: Array, category: Array, settings: BehaviourSettings) -> Array:
    """Share of buyers who bought again, smoothed by the share of the category (itself smoothed): float32 [n]."""
    damping = settings.repeat_damping
    overall = again.sum() / max(float(buyers.sum()), 1.0)
    group = category + 1
    of_category = (np.bincount(group, again) + 2 * damping * overall) / (np.bincount(group, buyers) + 2 * damping)
    shares: Array = ((again + damping * of_category[group]) / (buyers + damping)).astype(np.float32)
    return shares


def _neighbours(log: EventLog, settings: BehaviourSettings) -> tuple[Array, Array]:
    """The nearest products of each by their shoppers: int32 [n, 50], -1 padded; float16 [n, 50]."""
    pairs, times = np.unique(np.stack([log.shopper, log.row]), axis=1, return_counts=True)
    order = np.lexsort((-times, pairs[0]))
    shopper = pairs[0][order]
    place = np.arange(len(order)) - np.searchsorted(shopper, shopper)
    kept = order[place < settings.shopper_products]
    shape = (int(log.shopper.max()) + 1, log.products)
    taken = sparse.csr_matrix((np.log1p(times[kept]), (pairs[0][kept], pairs[1][kept])), shape, dtype=np.float32)
    by_product = taken.T.tocsr()
    length = np.sqrt(np.asarray(by_product.multiply(by_product).sum(axis=1)).ravel())
    neighbour = np.full((log.products, NEIGHBOURS), -1, np.int32)
    nearness = np.zeros((log.products, NEIGHBOURS), np.float16)
    sold = np.flatnonzero(length)
    for start in range(0, len(sold), _BLOCK):
        block = sold[start : start + _BLOCK]
        common = (by_product[block] @ taken).tocsr()
        for row, begin, end in zip(block.tolist(), common.indptr, common.indptr[1:], strict=False):
            others, dot = common.indices[begin:end], common.data[begin:end]
            score = np.where(others == row, 0, dot / (length[row] * length[others] + settings.nearness_damping))
            # Ties are broken by row number, so that equal events give equal tables.
            best = np.lexsort((others, -score))[:NEIGHBOURS]
            best = best[score[best] > 0]
            neighbour[row, : len(best)] = others[best]
            nearness[row, : len(best)] = score[best]
    return neighbour, nearness
