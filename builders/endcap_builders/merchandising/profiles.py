"""Shopper profiles for examples: histories cut at random times, search texts of the log, new shoppers."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import numpy as np
from endcap_server.shop.kind_lists import kind_lists
from endcap_server.shop.prompts import MAX_FAVOURITES, MAX_NEXT, MAX_PLACEMENTS, due, favourites, season_of

from endcap_builders.catalogue import Catalogue
from endcap_builders.merchandising.lexicon import Lexicon
from endcap_builders.merchandising.statistics import SEASONS, Statistics
from endcap_builders.merchandising.teacher import Profile, ThemeTask

_MAX_HISTORY = 200
_FOCUSED, _LISTED = 0.3, 0.1
_OF_TOPIC = 0.6
_EVENNESS = 0.25
_DUE = 0.5


class ProfileSampler:
    """Draws profiles with the labels and weights that retrieval uses."""

    def __init__(self, catalogue: Catalogue, statistics: Statistics, lexicon: Lexicon, rng: random.Random) -> None:
        self.statistics, self.lexicon, self.rng = statistics, lexicon, rng
        self.restocked = frozenset(
            topic.name
            for topic, is_restocked in zip(statistics.topics.topics, statistics.restocked.tolist(), strict=True)
            if is_restocked
        )
        self.rows: np.ndarray = np.empty(0, np.int64)
        self.starts: np.ndarray = np.zeros(1, np.int64)
        self.dates: list[date] = []
        events = catalogue.events
        if events is not None and len(events):
            self.rows = statistics.store.product_ids.find(events["product_id"].to_list())
            users = events["user_id"].to_numpy()
            changes = np.flatnonzero(users[1:] != users[:-1]) + 1
            self.starts = np.concatenate([[0], changes, [len(users)]])
            self.dates = events["timestamp"].dt.date().to_list()
        # Nearly even, so that a student learns rare topics, too.
        interest = statistics.popularity.astype(float) ** _EVENNESS
        self.topic_weights = (interest / interest.sum()).cumsum().tolist()
        self.events_of_topic = self._events_of_topic()
        queries = catalogue.queries
        self.queries: list[str] = list(statistics.store.keywords) if queries is None else queries["query"].to_list()
        counts = np.ones(len(self.queries)) if queries is None else queries["count"].to_numpy().astype(float)
        self._position = statistics.topics.by_name()
        # Square root, so that a student sees rare searches, too.
        weights = np.sqrt(np.maximum(counts, 1.0))
        self.query_weights = (weights / weights.sum()).cumsum().tolist() if len(weights) else []

    def draw(self) -> ThemeTask:
        """Draw one request."""
        rng = self.rng
        turn = rng.random()
        if turn < _FOCUSED:
            return self._focused()
        if turn < _FOCUSED + _LISTED:
            return self._listed()
        if rng.random() < 0.12:
            profile = Profile(season=self._season())
        elif len(self.starts) > 1 and rng.random() < 0.85:
            profile = self._from_history()
        else:
            profile = self._imagined()
        session: list[str] = []
        if self.queries and rng.random() < 0.4:
            session = rng.choices(self.queries, cum_weights=self.query_weights, k=rng.choice((1, 1, 1, 2, 3)))
        campaign = self._campaign(profile.season) if self.lexicon.campaign and rng.random() < 0.12 else ""
        season = "" if rng.random() < 0.08 else profile.season
        placements = (
            rng.choice((3, 4, 4, 5, 5, 6, 6, 6, 7, 8)) if rng.random() < 0.93 else rng.randint(1, MAX_PLACEMENTS)
        )
        return ThemeTask(replace(profile, session=tuple(session), season=season, campaign=campaign), placements)

    def _focused(self) -> ThemeTask:
        """Draw a short page about one or two topics, or about one search or campaign of the text.

        A student mainly learns the names and contents of topics, and short pages teach these faster than long ones. The
        grammar quotes campaigns and searches; the student learns what goes with them.
        """
        rng = self.rng
        topics: list[str] = []
        needed: list[str] = []
        session: list[str] = []
        brands: list[str] = []
        campaign, season = "", self._season()
        about = rng.random()
        if about < 0.6:
            drawn = rng.choices(range(len(self.statistics.topics)), cum_weights=self.topic_weights, k=rng.randint(1, 2))
            topics = list(dict.fromkeys(self.statistics.topics[topic].name for topic in drawn))
            needed = [name for name in topics if name in self.restocked and rng.random() < _DUE]
        elif about < 0.75 and self.queries:
            session = rng.choices(self.queries, cum_weights=self.query_weights, k=rng.choice((1, 1, 2)))
        elif about < 0.85 and self.lexicon.campaign:
            campaign = self._campaign(season)
        elif about < 0.95 and self.statistics.brands:
            brands = rng.sample(list(self.statistics.brands), min(len(self.statistics.brands), rng.randint(1, 2)))
        likes, new = self._lists(topics)
        profile = Profile(likes, tuple(brands), tuple(session), season, campaign, tuple(needed), new)
        return ThemeTask(profile, rng.randint(1, 3))

    def _listed(self) -> ThemeTask:
        """Draw lists of any kinds, and a page of these lists: the student learns to copy kinds that it rarely sees."""
        rng, topics = self.rng, self.statistics.topics
        count = rng.randint(2, MAX_FAVOURITES + MAX_NEXT)
        drawn = rng.choices(range(len(topics)), cum_weights=self.topic_weights, k=count)
        names = [topics[topic].name for topic in dict.fromkeys(drawn)]
        bought = rng.randint(min(1, len(names)), min(len(names), MAX_FAVOURITES))
        likes, new = self._lists(names[:bought], names[bought : bought + MAX_NEXT])
        lists = sum(len(kinds) > 1 for kinds in likes)
        return ThemeTask(Profile(likes, season=self._season(), new=new), max(1, lists))

    def _lists(
        self, bought: Sequence[str], new: Sequence[str] = ()
    ) -> tuple[tuple[tuple[str, ...], ...], frozenset[str]]:
        """Names of topics in lists as `retrieval` writes them, and which of the names are new."""
        topics, position = self.statistics.topics, self._position
        names = [topic.name for topic in topics.topics]
        lists = kind_lists(
            [position[name] for name in bought], [position[name] for name in new], names, self.statistics.affinity
        )
        return tuple(tuple(names[kind] for kind in kinds) for kinds in lists), frozenset(new)

    def _from_history(self) -> Profile:
        rng, statistics = self.rng, self.statistics
        topic = rng.choices(range(len(statistics.topics)), cum_weights=self.topic_weights)[0]
        of_topic = self.events_of_topic[topic]
        if len(of_topic) and rng.random() < _OF_TOPIC:
            # Just after an event of that topic.
            cut = int(of_topic[rng.randrange(len(of_topic))]) + 1
            start = int(self.starts[np.searchsorted(self.starts, cut - 1, side="right") - 1])
        else:
            user = rng.randrange(len(self.starts) - 1)
            start, end = int(self.starts[user]), int(self.starts[user + 1])
            cut = rng.randint(start + 1, end)
        rows = self.rows[max(start, cut - _MAX_HISTORY) : cut]
        rows = rows[rows >= 0]
        labels = [statistics.topics[t].name if t >= 0 else "" for t in statistics.topics.of_product[rows].tolist()]
        store = statistics.store
        brands = [store.brands[brand] if brand >= 0 else "" for brand in store.brand[rows].tolist()]
        season = season_of(self.dates[cut - 1]) if rng.random() < 0.6 else self._season()
        likes, new = self._lists(favourites(labels, MAX_FAVOURITES), self._next(set(labels)))
        return Profile(
            likes=likes,
            brands=tuple(favourites(brands, 3)),
            season=season,
            due=tuple(due(labels, self.restocked, 3)),
            new=new,
        )

    def _events_of_topic(self) -> list[np.ndarray]:
        """Positions in the events of each topic's products, int64 arrays."""
        topic = np.where(self.rows >= 0, self.statistics.topics.of_product[self.rows], -1)
        order = np.argsort(topic, kind="stable")
        bounds = np.searchsorted(topic[order], np.arange(len(self.statistics.topics) + 1))
        return [order[start:end] for start, end in itertools.pairwise(bounds.tolist())]

    def _imagined(self) -> Profile:
        """Without enough events: a few topics that go together."""
        rng, statistics = self.rng, self.statistics
        topics = rng.choices(range(len(statistics.topics)), cum_weights=self.topic_weights, k=rng.randint(1, 3))
        near = [other for topic in topics for other in statistics.complements(topic, 4)]
        topics = list(dict.fromkeys([*topics, *rng.sample(near, min(len(near), rng.randint(0, 3)))]))
        brands = []
        if rng.random() < 0.5:
            rows = [int(rng.choice(statistics.topics[topic].rows.tolist())) for topic in topics]
            found = [statistics.store.brand[row] for row in rows]
            brands = list(dict.fromkeys(statistics.store.brands[brand] for brand in found if brand >= 0))[:3]
        names = [statistics.topics[topic].name for topic in topics][:MAX_FAVOURITES]
        needed = [name for name in names if name in self.restocked and rng.random() < _DUE][:3]
        likes, new = self._lists(names, self._next(set(names)))
        return Profile(likes, tuple(brands), season=self._season(), due=tuple(needed), new=new)

    def _next(self, bought: set[str]) -> tuple[str, ...]:
        """Kinds that a shopper has not bought: of the popular ones, and of those that go with what was bought."""
        rng, statistics = self.rng, self.statistics
        topics = statistics.topics
        with_these = [each for each in topics.by_name().items() if each[0] in bought]
        near = [
            other
            for _, topic in rng.sample(with_these, min(3, len(with_these)))
            for other in statistics.complements(topic, 3)
        ]
        names = [topics[topic].name for topic in dict.fromkeys([*statistics.popular(24), *near])]
        left = [name for name in names if name not in bought]
        return tuple(rng.sample(left, min(len(left), rng.choice((0, 1, 2, MAX_NEXT, MAX_NEXT)))))

    def _season(self) -> str:
        return self.rng.choice(SEASONS)

    def _campaign(self, season: str) -> str:
        topic = self.statistics.topics[self.rng.choice(self.statistics.popular(40))].name
        text = self.rng.choice(self.lexicon.campaign)
        return text.format(topic=topic, Topic=topic.capitalize(), season=season, Season=season.capitalize())
