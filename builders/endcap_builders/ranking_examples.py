"""Training examples of the traditional ranker: what shoppers did on a day, given what they had done before."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from endcap_server.shop.store import ItemStore
from endcap_server.stages.ranking_features import HISTORY_ITEMS, FeatureTables

GRADES = {"view": 1, "cart": 2, "purchase": 3}
# Of grades 0 to 3, as the store step weighs them; a test compares the two.
_EVENT_WEIGHTS = np.array([0.0, 1.0, 3.0, 5.0])
_POSITIVES = 12
_POOL = 1024
_CUT_SHARE, _CUT_ITEMS = 0.2, 6
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Visits:
    """Days on which shoppers bought, in order of time; v visits, e events.

    Attributes:
        rows: int64 [e], product row of each event, each shopper's together and oldest first.
        grades: int8 [e], what the event was (`GRADES`).
        event_day: int64 [e], days since 1970.
        day: int64 [v], ascending.
        history: int64 [v], event at which the shopper's history begins.
        start: int64 [v], first event of the visit, where the history ends.
        end: int64 [v], one past the last.
    """

    rows: Array
    grades: Array
    event_day: Array
    day: Array
    history: Array
    start: Array
    end: Array

    def __len__(self) -> int:
        return len(self.day)


@dataclass(frozen=True)
class Examples:
    """Features and grades of g groups, one after the other; n rows.

    `features` float32 [n, F], `grades` int8 [n] (0 is not chosen), `sizes` int64 [g].
    """

    features: Array
    grades: Array
    sizes: Array

    def groups(self, values: Array) -> Iterator[Array]:
        """Cut `values` [n, ...] at the groups' ends."""
        return iter(np.split(values, np.cumsum(self.sizes)[:-1]))


def read_visits(events: pl.DataFrame, store: ItemStore) -> Visits:
    """Find the days with a purchase (or, in a log without purchases, with its strongest kind of event)."""
    ids = events["product_id"].unique()
    known = pl.DataFrame({"product_id": ids, "row": store.product_ids.find(ids.to_list())}).filter(pl.col("row") >= 0)
    table = events.join(known, on="product_id", how="inner", maintain_order="left").select(
        pl.col("row"),
        pl.col("type").cast(pl.String).replace_strict(GRADES, return_dtype=pl.Int8).alias("grade"),
        pl.col("user_id").rle_id().alias("user"),
        pl.col("timestamp").dt.epoch("d").cast(pl.Int64).alias("day"),
    )
    rows, grades, user, day = (table[name].to_numpy() for name in ("row", "grade", "user", "day"))
    if not len(rows):
        return Visits(rows, grades, day, *(np.zeros(0, np.int64) for _ in range(4)))
    new_user = np.r_[True, user[1:] != user[:-1]]
    start = np.flatnonzero(new_user | np.r_[True, day[1:] != day[:-1]])
    end = np.r_[start[1:], len(rows)]
    begin = np.maximum.accumulate(np.where(new_user, np.arange(len(rows)), 0))[start]
    chosen = np.flatnonzero(np.maximum.reduceat(grades, start) == grades.max())
    chosen = chosen[np.argsort(day[start[chosen]], kind="stable")]
    return Visits(rows, grades, day, day[start[chosen]], begin[chosen], start[chosen], end[chosen])


def popularity_before(visits: Visits, day: int, products: int) -> Array:
    """Popularity of each product before `day`, as the `store` step counts it of all time: float32 [products], 0..1."""
    before = visits.event_day < day
    logs = np.log1p(np.bincount(visits.rows[before], _EVENT_WEIGHTS[visits.grades[before]], minlength=products))
    return (logs / max(float(logs.max()), 1e-9)).astype(np.float32)


class Sampler:
    """Draws the candidates that a visit's choices have to beat.

    A quarter each is popular, of the categories of what was chosen, near to the shopper's history (as those that
    retrieval finds are), and random.
    """

    def __init__(self, tables: FeatureTables, popularity: Array, rng: np.random.Generator):
        self._tables = tables
        self._rng = rng
        self._cumulative = np.cumsum(popularity.astype(np.float64) + 1e-6)
        self._by_category = np.argsort(tables.category, kind="stable")
        self._categories = tables.category[self._by_category]
        self._pool = rng.permutation(len(popularity))[:_POOL]
        self._pool_vectors = tables.vectors[self._pool].astype(np.float32)

    def negatives(self, history: Array, positives: Array, count: int) -> Array:
        """Return about `count` distinct rows that are not among `positives`."""
        part = max(1, count // 4)
        drawn = [
            np.searchsorted(self._cumulative, self._rng.random(part) * self._cumulative[-1]),
            self._same_category(positives, part),
            self._near(history, part),
            self._rng.integers(len(self._cumulative), size=part),
        ]
        return np.setdiff1d(np.minimum(np.concatenate(drawn), len(self._cumulative) - 1), positives)

    def _same_category(self, positives: Array, count: int) -> Array:
        wanted = self._tables.category[self._rng.choice(positives, count)]
        first = np.searchsorted(self._categories, wanted, side="left")
        last = np.searchsorted(self._categories, wanted, side="right")
        return self._by_category[first + (self._rng.random(count) * (last - first)).astype(np.int64)]

    def _near(self, history: Array, count: int) -> Array:
        if not len(history):
            return self._rng.choice(self._pool, count)
        # Near to one of the last items rather than to their mean: a shopper has more than one taste.
        probe = self._tables.vectors[self._rng.choice(history[-20:])].astype(np.float32)
        nearness = self._pool_vectors @ probe
        best = np.argpartition(-nearness, min(3 * count, len(nearness) - 1))[: 3 * count]
        return self._pool[self._rng.choice(best, min(count, len(best)), replace=False)]


def make_examples(
    visits: Visits,
    chosen: Iterable[int],
    tables: FeatureTables,
    *,
    negatives: int,
    rng: np.random.Generator,
    cut_histories: bool,
) -> Examples:
    """Compute the features of the g visits `chosen` with about `negatives` candidates each.

    With `cut_histories` some shoppers are shown with their last few items or none, so that the model learns to do
    with little as well.
    """
    sampler = Sampler(tables, tables.popularity, rng)
    features, grades, sizes = [], [], []
    for visit in chosen:
        start, end = visits.start[visit], visits.end[visit]
        history = visits.rows[max(visits.history[visit], start - HISTORY_ITEMS) : start]
        if cut_histories and rng.random() < _CUT_SHARE:
            history = history[len(history) - min(len(history), int(rng.integers(_CUT_ITEMS))) :]
        positives, positive_grades = _best_grades(visits.rows[start:end], visits.grades[start:end])
        rows = np.concatenate([positives, sampler.negatives(history, positives, negatives)])
        features.append(tables.features(history, rows))
        grades.append(np.concatenate([positive_grades, np.zeros(len(rows) - len(positives), np.int8)]))
        sizes.append(len(rows))
    return Examples(np.concatenate(features), np.concatenate(grades), np.array(sizes, np.int64))


def _best_grades(rows: Array, grades: Array) -> tuple[Array, Array]:
    """Each product once with its highest grade, the highest first, and not more than `_POSITIVES`."""
    order = np.argsort(-grades, kind="stable")
    distinct, first = np.unique(rows[order], return_index=True)
    best = grades[order][first]
    keep = np.argsort(-best, kind="stable")[:_POSITIVES]
    return distinct[keep], best[keep]
