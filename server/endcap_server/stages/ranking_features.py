"""Features of (shopper, product) pairs for the traditional ranking model, in NumPy.

The build step ``ranker`` trains on the features that are served: both sides call :meth:`FeatureTables.features`.
Caption tokens are used as in P3 (arXiv 2605.09338): they are generated offline, as a multi-hot vector of the product
and as a profile of the shopper's history; only their comparison is computed online.
"""

from dataclasses import dataclass

import numpy as np

from endcap_server.shop.behaviour import Behaviour
from endcap_server.shop.columns import Array
from endcap_server.shop.store import ItemStore
from endcap_server.stages.sources import Profile, SourceTables
from endcap_server.stages.sources.repeats import repeats
from endcap_server.stages.sources.together import together, together_with_last

FEATURES = (
    "recent",  # log of its share of all recent purchases
    "bought",  # the same of purchases of all time
    "first",  # the same of shoppers' recent first purchases
    "shoppers",  # log(1 + shoppers who bought it)
    "repeat",  # share of its buyers who buy it again
    "share_in_category",  # its share of its category's recent purchases
    "popularity_in_category",  # share of its leaf category's products that sell less, 0..1
    "price",  # log(1 + price)
    "history_length",  # log(1 + items)
    "habit",  # share of the history's distinct products that are in it more than once
    "price_ratio",  # log of price over the median price of the history
    "category_share",  # recency-weighted share of the history in the product's category, 0..1
    "parent_share",  # the same of the category above it
    "brand_share",  # the same of its brand
    "seen_count",  # log(1 + times the product is in the history)
    "seen_recency",  # log(1 + items since then)
    "seen_recency_share",  # items since then as a share of the history
    "repeat_score",  # the score of the source `repeats`
    "repeat_rank",  # its place there
    "interval",  # log(1 + the shopper's mean number of items from one purchase of it to the next)
    "due",  # items since the last one over that interval
    "rate",  # times it is in the history over items since the first one
    "category_count",  # log(1 + items of its category)
    "category_recency",  # log(1 + items since the last of its category)
    "category_score",  # log of category_share times share_in_category
    "parent_score",  # the same of the category above it
    "together",  # the score of the source `together`
    "together_last",  # the same with the last 10 products only
    "history_cosine",  # cosine to the recency-weighted sum of the history's vectors
    "recent_cosine",  # largest cosine to one of the last 10 items
    "caption_cosine",  # idf-weighted cosine of its caption tokens and the shopper's caption profile
    "caption_matches",  # how many of its caption tokens the profile has
    "caption_best",  # largest idf-weighted weight of one matching token
)
"""Columns of :meth:`FeatureTables.features`, in order. The model's metadata names those that it was trained on."""

CAPTION_FEATURES = tuple(name for name in FEATURES if name.startswith("caption_"))
"""Features of P3's caption tokens; the ablation trains without them."""

_RECENT_ITEMS = 10
_LEAST = 1e-6
"""Share of purchases below which a product counts as unsold."""


@dataclass(frozen=True)
class FeatureTables:
    """Lookup tables of the features, derived once from the item store; n products, D dimensions, V caption tokens.

    Attributes:
        sources: Behaviour, categories and the categories above them.
        popularity: float32 [n, 7], the columns that are the same for all shoppers, except the price.
        log_price: float32 [n], NaN unknown.
        brand: int32 [n], -1 none.
        vectors: float16 [n, D], unit length.
        caption_starts: int64 [n], start of each product's tokens in `caption_tokens`.
        caption_lengths: int64 [n], number of its tokens.
        caption_tokens: int32 [total], 0..V-1.
        idf: float32 [V], inverse document frequency of each caption token.
        caption_norm: float32 [n], length of each product's idf-weighted token vector (1 for none).
    """

    sources: SourceTables
    popularity: Array
    log_price: Array
    brand: Array
    vectors: Array
    caption_starts: Array
    caption_lengths: Array
    caption_tokens: Array
    idf: Array
    caption_norm: Array

    @classmethod
    def of(cls, store: ItemStore, behaviour: Behaviour) -> "FeatureTables":
        """Derive the tables from an item store and behaviour.

        Training passes the behaviour before the time of an example: the build's own behaviour includes the purchases
        that training predicts.
        """
        tokens, offsets = np.asarray(store.captions.values), np.asarray(store.captions.offsets)
        products, vocabulary = len(store), len(store.caption_tokens)
        frequency = np.bincount(tokens, minlength=vocabulary)
        idf = np.log((products + 1) / (frequency + 1)).astype(np.float32)
        starts, lengths = offsets[:-1], np.diff(offsets)
        norm = np.sqrt(_segment_sums(idf[tokens] ** 2, starts, lengths))
        sources = SourceTables.of(behaviour, np.asarray(store.category), store.categories)
        return cls(
            sources=sources,
            popularity=_popularity(sources),
            log_price=np.log1p(np.asarray(store.price, np.float32)),
            brand=np.asarray(store.brand),
            vectors=store.vectors,
            caption_starts=starts,
            caption_lengths=lengths,
            caption_tokens=tokens,
            idf=idf,
            caption_norm=np.where(norm > 0, norm, 1).astype(np.float32),
        )

    def features(self, history_rows: Array, rows: Array) -> Array:
        """Return float32 [n, len(FEATURES)] for n candidates; NaN means unknown, as in LightGBM.

        For a new shopper, the features of the history are NaN, except `history_length` = 0.

        Args:
            history_rows: int [h], the shopper's items, oldest first; the last `HISTORY_ITEMS` count.
            rows: int [n], candidate products.
        """
        return self.of_profile(Profile.of(np.asarray(history_rows)), np.asarray(rows, np.int64))

    def of_profile(self, profile: Profile, rows: Array) -> Array:
        """As :meth:`features`, for a history that is already counted."""
        history, weights = profile.history, profile.weights
        table = np.full((len(rows), len(FEATURES)), np.nan, np.float32)
        popularity = self.popularity.shape[1]
        table[:, :popularity] = self.popularity[rows]
        table[:, popularity] = self.log_price[rows]
        table[:, popularity + 1] = np.log1p(len(history))
        if not len(history) or not len(rows):
            return table
        category_share = _share(self.sources.category, history, weights, rows)
        parent_share = _share(self.sources.parent, history, weights, rows)
        columns = (
            np.full(len(rows), (profile.count > 1).mean()),
            self.log_price[rows] - _median(self.log_price[history]),
            category_share,
            parent_share,
            _share(self.brand, history, weights, rows),
            *self._seen(profile, rows),
            *self._of_category(history, rows),
            np.log(category_share * self.sources.share_in_category[rows] + _LEAST),
            np.log(parent_share * self.sources.share_in_parent[rows] + _LEAST),
            together(self.sources, profile).of(rows),
            together_with_last(self.sources, profile).of(rows),
            *self._cosines(history, weights, rows),
            *self._captions(history, weights, rows),
        )
        for position, column in enumerate(columns, popularity + 2):
            table[:, position] = column
        return table

    def _seen(self, profile: Profile, rows: Array) -> tuple[Array, ...]:
        """The features `seen_count` to `rate`. If the product is not in the history, all but the count are NaN."""
        place = profile.place(rows)
        length = len(profile.history)
        count = profile.count.astype(np.float32)
        since = (length - 1 - profile.last).astype(np.float32)
        interval = np.where(count > 1, (profile.last - profile.first) / np.maximum(count - 1, 1), np.nan)
        again = repeats(self.sources, profile)
        rank = np.full(len(profile.items), np.nan, np.float32)
        rank[profile.place(again.rows)] = np.arange(len(again.rows))
        of_items = (
            np.log1p(since),
            since / length,
            again.of(profile.items),
            rank,
            np.log1p(interval),
            (since + 1) / np.maximum(interval, 1),
            count / np.maximum(length - profile.first, 1),
        )
        seen = place >= 0
        columns = [np.where(seen, np.log1p(count)[place], 0)]
        return (*columns, *(np.where(seen, column[place], np.nan) for column in of_items))

    def _of_category(self, history: Array, rows: Array) -> tuple[Array, Array]:
        """Items of the candidate's category, and items since the last of them; NaN without any."""
        values, wanted = self.sources.category[history], self.sources.category[rows]
        same = wanted[:, None] == values[None, :]
        count = same.sum(axis=1).astype(np.float32)
        since = np.argmax(same[:, ::-1], axis=1).astype(np.float32)
        count[wanted < 0] = np.nan
        return np.log1p(count), np.where(count > 0, np.log1p(since), np.nan)

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
        """The caption tokens of several products, concatenated."""
        total = int(lengths.sum())
        within = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self.caption_tokens[np.repeat(starts, lengths) + within]


def _share(column: Array, history: Array, weights: Array, rows: Array) -> Array:
    """Weighted share of the history with the candidate's value; NaN if the candidate has none (-1)."""
    values, wanted = column[history], column[rows]
    share = (wanted[:, None] == values[None, :]).astype(np.float32) @ weights / weights.sum()
    share[wanted < 0] = np.nan
    return share


def _median(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else np.nan


def _segment_sums(values: Array, starts: Array, lengths: Array) -> Array:
    """Sums of consecutive runs of ``lengths[i]`` values; runs can be empty."""
    sums = np.zeros(len(lengths), np.float32)
    some = lengths > 0
    if some.any():
        sums[some] = np.add.reduceat(values, starts[some])
    return sums


def _popularity(sources: SourceTables) -> Array:
    """The columns from `recent` to `popularity_in_category`: float32 [n, 7]."""
    behaviour = sources.behaviour
    columns = (
        *(np.log(each / max(float(each.sum()), 1e-9) + _LEAST) for each in (behaviour.recent, behaviour.bought)),
        np.log(behaviour.first / max(float(behaviour.first.sum()), 1e-9) + _LEAST),
        np.log1p(behaviour.shoppers),
        behaviour.repeat,
        sources.share_in_category,
        _rank_within(behaviour.recent, sources.category),
    )
    return np.stack(columns, axis=1).astype(np.float32)


def _rank_within(values: Array, groups: Array) -> Array:
    """Share of the products of the same group with smaller values: float32 [n]."""
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
