"""Features of (shopper, product) pairs for the traditional ranking model, in NumPy.

The builders' ``ranker`` step trains on exactly the features that are served: both sides call
:meth:`FeatureTables.features`. Caption tokens enter as P3 describes (arXiv 2605.09338): generated offline, as a
multi-hot of the product and as a profile of the shopper's history; only their light comparison is computed online.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from endcap_server.shop.columns import Array
from endcap_server.shop.store import ItemStore

FEATURES = (
    "popularity",  # store.popularity, 0..1
    "popularity_in_category",  # share of its leaf category's products that are less popular, 0..1
    "price",  # log(1 + price)
    "history_length",  # log(1 + items)
    "price_ratio",  # log of price over the median price of the history
    "category_share",  # recency-weighted share of the history in the product's category, 0..1
    "parent_share",  # the same of the category above it
    "brand_share",  # the same of its brand
    "seen_count",  # log(1 + times the product is in the history)
    "seen_recency",  # log(1 + items since then)
    "history_cosine",  # cosine to the recency-weighted sum of the history's vectors
    "recent_cosine",  # largest cosine to one of the last 10 items
    "caption_cosine",  # idf-weighted cosine of its caption tokens and the shopper's caption profile
    "caption_matches",  # how many of its caption tokens the profile has
    "caption_best",  # largest idf-weighted weight of one matching token
)
"""Columns of :meth:`FeatureTables.features`, in order; the model's file names the ones it was trained on."""

CAPTION_FEATURES = tuple(name for name in FEATURES if name.startswith("caption_"))
"""What P3's caption tokens add; the ablation trains without them."""

HISTORY_ITEMS = 100
"""Items of a history that count: the last ones; what is older would weigh less than 1/32."""

_HALF_LIFE_ITEMS = 20.0
_RECENT_ITEMS = 10
_SHOPPER_FEATURES = FEATURES.index("price_ratio")


@dataclass(frozen=True)
class FeatureTables:
    """What features look up, derived once from the item store; n products, D dimensions, V caption tokens.

    Attributes:
        popularity: float32 [n], 0..1.
        popularity_in_category: float32 [n], 0..1.
        log_price: float32 [n], NaN unknown.
        category: int32 [n], -1 none.
        parent: int32 [n], the category above (of a top category itself), -1 none.
        brand: int32 [n], -1 none.
        vectors: float16 [n, D], unit length.
        caption_starts: int64 [n], where each product's tokens begin in `caption_tokens`.
        caption_lengths: int64 [n], how many it has.
        caption_tokens: int32 [total], 0..V-1.
        idf: float32 [V], inverse document frequency of each caption token.
        caption_norm: float32 [n], length of each product's idf-weighted token vector (1 for none).
    """

    popularity: Array
    popularity_in_category: Array
    log_price: Array
    category: Array
    parent: Array
    brand: Array
    vectors: Array
    caption_starts: Array
    caption_lengths: Array
    caption_tokens: Array
    idf: Array
    caption_norm: Array

    @classmethod
    def of(cls, store: ItemStore, popularity: Array | None = None) -> "FeatureTables":
        """Derive the tables.

        Args:
            store: the build's item store.
            popularity: float32 [n] in place of the store's; training takes that of the time before its examples,
                because the store's has counted the very purchases that are to be predicted.
        """
        popularity = np.asarray(store.popularity if popularity is None else popularity, np.float32)
        tokens, offsets = np.asarray(store.captions.values), np.asarray(store.captions.offsets)
        products, vocabulary = len(store), len(store.caption_tokens)
        frequency = np.bincount(tokens, minlength=vocabulary)
        idf = np.log((products + 1) / (frequency + 1)).astype(np.float32)
        starts, lengths = offsets[:-1], np.diff(offsets)
        norm = np.sqrt(_segment_sums(idf[tokens] ** 2, starts, lengths))
        category = np.asarray(store.category)
        return cls(
            popularity=popularity,
            popularity_in_category=_rank_within(popularity, category),
            log_price=np.log1p(np.asarray(store.price, np.float32)),
            category=category,
            parent=_parents(store.categories)[category],
            brand=np.asarray(store.brand),
            vectors=store.vectors,
            caption_starts=starts,
            caption_lengths=lengths,
            caption_tokens=tokens,
            idf=idf,
            caption_norm=np.where(norm > 0, norm, 1).astype(np.float32),
        )

    def features(self, history_rows: Array, rows: Array) -> Array:
        """Return float32 [n, len(FEATURES)] for n candidates; NaN is "not known", as LightGBM takes it.

        A new shopper's history features are NaN, but for `history_length` = 0.

        Args:
            history_rows: int [h], the shopper's items, oldest first.
            rows: int [n], candidate products.
        """
        history = np.asarray(history_rows, np.int64)[-HISTORY_ITEMS:]
        rows = np.asarray(rows, np.int64)
        table = np.full((len(rows), len(FEATURES)), np.nan, np.float32)
        table[:, 0] = self.popularity[rows]
        table[:, 1] = self.popularity_in_category[rows]
        table[:, 2] = self.log_price[rows]
        table[:, 3] = np.log1p(len(history))
        if not len(history) or not len(rows):
            return table
        weights = np.exp2(-np.arange(len(history) - 1, -1, -1) / _HALF_LIFE_ITEMS).astype(np.float32)
        columns = (
            self.log_price[rows] - _median(self.log_price[history]),
            _share(self.category, history, weights, rows),
            _share(self.parent, history, weights, rows),
            _share(self.brand, history, weights, rows),
            *_seen(history, rows),
            *self._cosines(history, weights, rows),
            *self._captions(history, weights, rows),
        )
        for position, column in enumerate(columns, _SHOPPER_FEATURES):
            table[:, position] = column
        return table

    def _cosines(self, history: Array, weights: Array, rows: Array) -> tuple[Array, Array]:
        past = self.vectors[history].astype(np.float32)
        taste = weights @ past
        probes = np.vstack([taste / max(float(np.linalg.norm(taste)), 1e-9), past[-_RECENT_ITEMS:]])
        cosines = self.vectors[rows].astype(np.float32) @ probes.T
        return cosines[:, 0], cosines[:, 1:].max(axis=1)

    def _captions(self, history: Array, weights: Array, rows: Array) -> tuple[Array, Array, Array]:
        starts, lengths = self.caption_starts[history], self.caption_lengths[history]
        profile = np.zeros(len(self.idf), np.float32)
        np.add.at(profile, self._tokens(starts, lengths), np.repeat(weights, lengths))
        profile *= self.idf
        length = float(np.sqrt(profile @ profile))
        starts, lengths = self.caption_starts[rows], self.caption_lengths[rows]
        tokens = self._tokens(starts, lengths)
        weight = profile[tokens] / max(length, 1e-9)
        begins = np.cumsum(lengths) - lengths
        cosine = _segment_sums(weight * self.idf[tokens], begins, lengths) / self.caption_norm[rows]
        matches = _segment_sums((weight > 0).astype(np.float32), begins, lengths)
        best = np.zeros(len(rows), np.float32)
        if len(tokens):
            some = lengths > 0
            best[some] = np.maximum.reduceat(weight, begins[some])
        none = lengths == 0
        for column in (cosine, matches, best):
            column[none] = np.nan
        return cosine, matches, best

    def _tokens(self, starts: Array, lengths: Array) -> Array:
        """The caption tokens of several products, one after the other."""
        total = int(lengths.sum())
        within = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self.caption_tokens[np.repeat(starts, lengths) + within]


def _share(column: Array, history: Array, weights: Array, rows: Array) -> Array:
    """Weighted share of the history that has the candidate's value; NaN where the candidate has none (-1)."""
    values, wanted = column[history], column[rows]
    share = (wanted[:, None] == values[None, :]).astype(np.float32) @ weights / weights.sum()
    share[wanted < 0] = np.nan
    return share


def _seen(history: Array, rows: Array) -> tuple[Array, Array]:
    same = rows[:, None] == history[None, :]
    count = same.sum(axis=1)
    since = np.argmax(same[:, ::-1], axis=1).astype(np.float32)
    return np.log1p(count), np.where(count > 0, np.log1p(since), np.nan)


def _median(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else np.nan


def _segment_sums(values: Array, starts: Array, lengths: Array) -> Array:
    """Sum of each run of ``lengths[i]`` values; the runs lie one after the other, empty ones among them."""
    sums = np.zeros(len(lengths), np.float32)
    some = lengths > 0
    if some.any():
        sums[some] = np.add.reduceat(values, starts[some])
    return sums


def _rank_within(values: Array, groups: Array) -> Array:
    """Share of the products of the same group with a smaller value: float32 [n]."""
    order = np.lexsort((values, groups))
    sorted_groups, sorted_values = groups[order], values[order]
    index = np.arange(len(order))
    new_group = np.r_[True, sorted_groups[1:] != sorted_groups[:-1]] if len(order) else np.zeros(0, bool)
    new_value = new_group | np.r_[True, sorted_values[1:] != sorted_values[:-1]] if len(order) else new_group
    group_start = np.maximum.accumulate(np.where(new_group, index, 0))
    smaller = np.maximum.accumulate(np.where(new_value, index, 0)) - group_start
    sizes = np.bincount(np.cumsum(new_group) - 1)[np.cumsum(new_group) - 1] if len(order) else index
    ranks = np.empty(len(order), np.float32)
    ranks[order] = smaller / np.maximum(sizes - 1, 1)
    return ranks


def _parents(categories: Sequence[str]) -> Array:
    """An id of the category above each one (itself at the top), and -1 at the end, where index -1 finds it."""
    ids: dict[str, int] = {}
    parents = [ids.setdefault(path.rpartition(" > ")[0] or path, len(ids)) for path in categories]
    return np.array([*parents, -1], np.int32)
