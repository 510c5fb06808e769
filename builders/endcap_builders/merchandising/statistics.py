"""Statistics of a catalogue: what is bought together, when, and which words describe it."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import polars as pl
from endcap_server.shop.prompts import clean, season_of
from endcap_server.shop.store import ItemStore
from endcap_server.shop.words import stem, words

from endcap_builders.catalogue import Catalogue
from endcap_builders.merchandising.lexicon import Lexicon
from endcap_builders.merchandising.topics import Array, Topics, find_topics, presentable

SEASONS = ("winter", "spring", "summer", "autumn")
_MIN_BRAND_PRODUCTS = 4
_FEW_TOPICS, _MOST_OF_TOPICS = 8, 0.2
_MAX_ATTRIBUTES = 80
_PRIOR_BASKETS = 4.0
_PRIOR_SHOPPERS, _PRIOR_REPEAT = 6.0, 0.1
_RESTOCKED = 0.25
_LATER_DAYS = 3
_SAME_PARENT = 10.0
_MAX_OCCASIONS = 200
_OCCASION_PRODUCTS, _OCCASION_TOPICS = 24, 5


@dataclass(frozen=True)
class Brand:
    """A brand with enough products for a placement."""

    name: str
    topics: tuple[int, ...]  # where it has most products, best first


@dataclass(frozen=True)
class Attribute:
    """A word that describes products of several topics."""

    name: str
    keywords: dict[int, str]  # by topic, its most searched keyword that starts with the word


@dataclass(frozen=True)
class Occasion:
    """An occasion: a search whose products belong to several topics that are bought together."""

    name: str  # the search
    topics: tuple[int, ...]  # those with most of its products first
    weight: float  # logarithm of how often it was searched
    season: str  # when its topics sell best, "" all year


@dataclass(frozen=True)
class Statistics:
    """The statistics; T topics."""

    store: ItemStore
    topics: Topics
    topic_vectors: Array  # float32 [T, D], unit length
    popularity: Array  # float32 [T], share of the shop's interest
    lift: Array  # float32 [T, T], bought together more often than by chance (1), diagonal 0
    affinity: Array  # float32 [T, T], how well two topics suit one placement
    season_lift: Array  # float32 [T, 4], in the order of SEASONS; 1 where nothing is known
    restocked: Array  # bool [T], whether shoppers buy it repeatedly; all false without events
    occasions: list[Occasion]  # most searched first
    attributes: dict[str, Attribute]
    brands: dict[str, Brand]

    def complements(self, topic: int, count: int) -> list[int]:
        """Topics that go with `topic`, best first."""
        order = np.argsort(-self.lift[topic], kind="stable")[:count]
        return [int(other) for other in order if self.lift[topic, other] > 1.1]

    def of_season(self, season: str, count: int) -> list[int]:
        """Topics that sell better in a season than in others, best first."""
        if season not in SEASONS:
            return []
        lift = self.season_lift[:, SEASONS.index(season)] * np.sqrt(self.popularity / self.popularity.max())
        order = np.argsort(-lift, kind="stable")[:count]
        return [int(topic) for topic in order if self.season_lift[topic, SEASONS.index(season)] > 1.15]

    def popular(self, count: int) -> list[int]:
        """The most popular topics."""
        return [int(topic) for topic in np.argsort(-self.popularity, kind="stable")[:count]]


def compute_statistics(catalogue: Catalogue, store: ItemStore, lexicon: Lexicon) -> Statistics:
    """Compute all statistics; events and categories are optional.

    Raises:
        ValueError: no topic can be found (a catalogue of a handful of products without categories).
    """
    topics = _found_topics(catalogue, store)
    vectors = _topic_vectors(store, topics)
    events = _topic_events(catalogue, store, topics)
    size = np.array([len(topic.rows) for topic in topics.topics], np.float32)
    lift = _lift(events, vectors)
    if events is None:
        popularity = size / size.sum()
        season_lift = np.ones((len(topics), len(SEASONS)), np.float32)
    else:
        counts = np.bincount(events["topic"].to_numpy(), minlength=len(topics)).astype(np.float32)
        popularity = (counts + 1) / (counts + 1).sum()
        season_lift = _season_lift(events, len(topics))
    return Statistics(
        store=store,
        topics=topics,
        topic_vectors=vectors,
        popularity=popularity,
        lift=lift,
        affinity=_affinity(topics, lift),
        season_lift=season_lift,
        restocked=_restocked(events, len(topics)),
        occasions=_occasions(store, topics, lift, season_lift),
        attributes=_attributes(store, topics, lexicon.ignored_attributes),
        brands=_brands(store, topics),
    )


def topics_of(catalogue: Catalogue, store: ItemStore) -> tuple[Topics, Array, Array]:
    """The topics, which of them are bought again (bool [T], all false without events), and their affinity.

    Raises:
        ValueError: as of `compute_statistics`.
    """
    topics = _found_topics(catalogue, store)
    events = _topic_events(catalogue, store, topics)
    lift = _lift(events, _topic_vectors(store, topics))
    return topics, _restocked(events, len(topics)), _affinity(topics, lift)


def _found_topics(catalogue: Catalogue, store: ItemStore) -> Topics:
    topics = find_topics(store)
    if not len(topics):
        raise ValueError(
            f"{catalogue.folder}: expected categories, or titles that share words, for the themes of a storefront; "
            f"got neither in {len(store)} products; add the column category to products.parquet"
        )
    return topics


def _topic_vectors(store: ItemStore, topics: Topics) -> Array:
    """float32 [T, D], unit length."""
    vectors = np.stack([store.vectors[topic.rows[:200]].astype(np.float32).mean(axis=0) for topic in topics.topics])
    unit: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return unit


def _affinity(topics: Topics, lift: Array) -> Array:
    """float32 [T, T]: what is bought together suits one placement, and above all what is of one category."""
    parents = np.array([topic.parent for topic in topics.topics])
    same = (parents[:, None] == parents) & (parents != "")
    found: Array = (lift + _SAME_PARENT * same).astype(np.float32)
    return found


def _topic_events(catalogue: Catalogue, store: ItemStore, topics: Topics) -> pl.DataFrame | None:
    """Events of known products with their topics; only purchases and carts if there are enough of them."""
    if catalogue.events is None:
        return None
    rows = store.product_ids.find(catalogue.events["product_id"].to_list())
    events = catalogue.events.with_columns(topic=pl.Series(np.where(rows >= 0, topics.of_product[rows], -1)))
    events = events.filter(pl.col("topic") >= 0)
    bought = events.filter(pl.col("type") != "view")
    if len(bought) >= 0.1 * len(events):
        events = bought
    return events if len(events) else None


def _lift(events: pl.DataFrame | None, vectors: Array) -> Array:
    """What topics go with, float32 [T, T]: by co-purchases; a topic without any goes with similar topics."""
    if events is None:
        return _similar_topics(vectors)
    lift = _lift_of_weeks(events, vectors)
    unknown = lift.max(axis=1) <= 1.1
    lift[unknown] = _similar_topics(vectors)[unknown]
    return lift


def _lift_of_weeks(events: pl.DataFrame, vectors: Array) -> Array:
    """Lift of two topics within a shopper's week (a single basket holds too few products in some data).

    The estimate is the mean of a gamma posterior. Its prior has the weight of `_PRIOR_BASKETS` expected baskets and is
    higher for similar topics. A shop with few baskets therefore does not pair salad dressing with pain relief because
    two shoppers once did.
    """
    count = len(vectors)
    weeks = events.select("user_id", pl.col("timestamp").dt.truncate("1w").alias("week"), "topic").unique()
    baskets = weeks.select(pl.struct("user_id", "week").rank("dense").alias("basket"), "topic")
    presence = np.bincount(baskets["topic"].to_numpy(), minlength=count).astype(np.float32)
    total = max(1, baskets["basket"].n_unique())
    pairs = baskets.join(baskets, on="basket").filter(pl.col("topic") != pl.col("topic_right"))
    together = np.zeros((count, count), np.float32)
    if len(pairs):
        found = pairs.group_by("topic", "topic_right").len()
        together[found["topic"].to_numpy(), found["topic_right"].to_numpy()] = found["len"].to_numpy()
    expected = presence[:, None] * presence[None, :] / total
    similarity = vectors @ vectors.T
    ordinary = similarity[~np.eye(count, dtype=bool)]
    spread = float(ordinary.std()) if len(ordinary) else 0.0
    prior = np.clip(
        0.7 + 0.4 * (similarity - float(ordinary.mean() if len(ordinary) else 0.0)) / max(spread, 1e-3), 0.2, 1.5
    )
    lift: Array = ((together + _PRIOR_BASKETS * prior) / (expected + _PRIOR_BASKETS)).astype(np.float32)
    lift[together == 0] = 0.0
    return lift


def _restocked(events: pl.DataFrame | None, count: int) -> Array:
    """Which topics are bought again: bool [T], all false without events.

    The share of shoppers who buy from a topic again on a later day, among those who came back on at least `_LATER_DAYS`
    days after their first purchase of it. The estimate is the mean of a beta posterior, because there can be few
    shoppers. Durable goods are not listed anywhere; they fail by their events.
    """
    if events is None:
        return np.zeros(count, bool)
    days = events.select("user_id", "topic", pl.col("timestamp").dt.date().rank("dense").over("user_id").alias("visit"))
    found = (
        days.with_columns(visits=pl.col("visit").max().over("user_id"))
        .group_by("user_id", "topic")
        .agg(pl.col("visits").first(), pl.col("visit").min(), pl.col("visit").n_unique().alias("days"))
        .filter(pl.col("visits") - pl.col("visit") >= _LATER_DAYS)
        .group_by("topic")
        .agg(pl.len().alias("shoppers"), (pl.col("days") > 1).sum().alias("again"))
    )
    rate = np.zeros(count)
    rate[found["topic"].to_numpy()] = (found["again"].to_numpy() + _PRIOR_SHOPPERS * _PRIOR_REPEAT) / (
        found["shoppers"].to_numpy() + _PRIOR_SHOPPERS
    )
    restocked: Array = rate >= _RESTOCKED
    return restocked


def _occasions(store: ItemStore, topics: Topics, lift: Array, season_lift: Array) -> list[Occasion]:
    """Find occasions in the search log: the products of "taco night" are in several topics that are bought together."""
    found: list[Occasion] = []
    for row in np.argsort(-store.keyword_counts, kind="stable").tolist():
        if store.keyword_counts[row] <= 0 or len(found) == _MAX_OCCASIONS:
            break
        name = store.keywords[row]
        if topics.of_keyword[row] >= 0 or not topics.conceptual[row] or len(name.split()) > 4:
            continue
        rows = store.keyword_products[row, :_OCCASION_PRODUCTS]
        of_products = topics.of_product[rows[rows >= 0]]
        of_products = of_products[of_products >= 0]
        if not len(of_products):
            continue
        counts = np.bincount(of_products)
        best = [int(topic) for topic in np.argsort(-counts, kind="stable")[:_OCCASION_TOPICS] if counts[topic] > 1]
        pairs = [lift[one, two] for one in best for two in best if one < two]
        if len(best) < 2 or np.mean(pairs) <= 1.1:
            continue
        lifts = season_lift[best].mean(axis=0)
        season = SEASONS[int(lifts.argmax())] if lifts.max() > 1.15 else ""
        found.append(Occasion(name, tuple(best), float(np.log1p(store.keyword_counts[row])), season))
    return found


def _season_lift(events: pl.DataFrame, count: int) -> Array:
    days = events["timestamp"].dt.date()
    season = {day: SEASONS.index(season_of(day)) for day in days.unique().to_list()}
    found = np.zeros((count, len(SEASONS)), np.float32)
    np.add.at(found, (events["topic"].to_numpy(), days.replace_strict(season, return_dtype=pl.Int32).to_numpy()), 1.0)
    of_season = found.sum(axis=0) / found.sum()
    prior = 10.0
    lift = (found + prior * of_season) / (found.sum(axis=1, keepdims=True) + prior) / np.maximum(of_season, 1e-6)
    # Ignore a season that the log hardly covers.
    lift[:, of_season < 0.05] = 1.0
    return lift.astype(np.float32)


def _similar_topics(vectors: Array) -> Array:
    """Without purchases: topics that are similar, but not the same thing with two names."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, 0.0)
    return np.where(similarity < 0.85, 4.0 * similarity, 0.0).astype(np.float32)


def _brands(store: ItemStore, topics: Topics) -> dict[str, Brand]:
    found: dict[int, Counter[int]] = defaultdict(Counter)
    for brand, topic in zip(store.brand.tolist(), topics.of_product.tolist(), strict=True):
        if brand >= 0 and topic >= 0:
            found[brand][topic] += 1
    brands = {}
    for brand, counts in found.items():
        name = clean(store.brands[brand], 30)
        # A brand with products of most kinds, often the shop's own brand, says nothing about a theme.
        of_everything = len(counts) > max(_FEW_TOPICS, _MOST_OF_TOPICS * len(topics))
        if name and not of_everything and sum(counts.values()) >= _MIN_BRAND_PRODUCTS:
            brands[name] = Brand(name, tuple(topic for topic, _ in counts.most_common(6)))
    return brands


def _attributes(store: ItemStore, topics: Topics, ignored: frozenset[str]) -> dict[str, Attribute]:
    """Modifiers of nouns in many topics: "organic", "wooden", "gluten-free".

    A word counts if both "word noun" and "noun" are known keywords of the same topic.
    """
    known = {text: row for row, text in enumerate(store.keywords)}
    found: dict[str, dict[int, tuple[int, str]]] = defaultdict(dict)
    for row, text in enumerate(store.keywords):
        first, _, rest = text.partition(" ")
        topic = int(topics.of_keyword[row])
        if (
            topic < 0 or not topics.conceptual[row] or topics.of_keyword[known[rest]] != topic
            if rest in known
            else True
        ):
            continue
        best = found[first].get(topic)
        count = int(store.keyword_counts[row])
        if best is None or count > best[0]:
            found[first][topic] = (count, text)
    names = {stem(word) for topic in topics.topics for word in words(topic.name)}
    scored = []
    for word, of_topic in found.items():
        plain = word.replace("-", "").isalpha() and 4 <= len(word) <= 20 and presentable(word)
        if plain and len(of_topic) >= 4 and word not in ignored and stem(word) not in names:
            scored.append((len(of_topic), word, {topic: text for topic, (_, text) in of_topic.items()}))
    scored.sort(key=lambda item: (-item[0], item[1]))
    return {word: Attribute(word, of_topic) for _, word, of_topic in scored[:_MAX_ATTRIBUTES]}
