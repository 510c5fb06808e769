"""The default teacher: a merchandiser in code, who writes themes and chooses keywords from the catalogue's statistics.

What it writes follows from the shopper text alone, by stable hashes instead of dice: students decode greedily, and a
teacher that answers one text in ten ways teaches them the one way that offends least.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from endcap_server.prompts import TITLE_CHARACTERS, ThemeDraft, clean, quoted_texts

from endcap_builders.merchandising.lexicon import Lexicon, Occasion
from endcap_builders.merchandising.statistics import SEASONS, Statistics
from endcap_builders.merchandising.teacher import KeywordRequest, Profile, ThemeRequest
from endcap_builders.merchandising.topics import Array, presentable, stems

Embed = Callable[[Sequence[str]], Array]
"""Texts to unit vectors float32 [n, D] of the item store's space."""

_SAME_THING = 0.72
_MAX_THEMES = 24
_NEAR = 24
Idea = tuple[str, Sequence[str]]
"""A title and concepts, before they are checked."""


@dataclass(frozen=True)
class _FoundOccasion:
    """An occasion of the lexicon in the words of this catalogue."""

    occasion: Occasion
    concepts: tuple[str, ...]
    topics: frozenset[int]


class Merchandiser:
    """Implements `teacher.Teacher`."""

    def __init__(self, statistics: Statistics, lexicon: Lexicon, embed: Embed) -> None:
        """Take the statistics; find the lexicon's occasions among the catalogue's keywords (embeds their wants)."""
        self.statistics, self.lexicon, self.embed = statistics, lexicon, embed
        self.vectors = statistics.store.keyword_vectors.astype(np.float32)
        self.keyword_row = {text: row for row, text in enumerate(statistics.store.keywords)}
        self._topic_of_name = statistics.topics.by_name()
        self._cache: dict[str, Array] = {}
        self._near: dict[str, list[str]] = {}
        self._topic_near: dict[str, int] = {}
        self._attributes_of: dict[int, list[Idea]] = {}
        self._occasions_of: dict[tuple[tuple[int, ...], str], list[Idea]] = {}
        topics = statistics.topics
        self._concept_rows = np.flatnonzero(topics.conceptual & (topics.of_keyword >= 0))
        self._concept_vectors = self.vectors[self._concept_rows]
        self.occasions = self._find_occasions()

    def themes(self, requests: Sequence[ThemeRequest]) -> Iterator[list[ThemeDraft]]:
        """Write an ordered page for each request."""
        texts = {clean(r.profile.campaign, TITLE_CHARACTERS).lower() for r in requests if r.profile.campaign}
        self.prepare(texts)
        self._find_near(texts)
        for request in requests:
            yield self._page(request.profile, request.placements)

    def choose_keywords(self, requests: Sequence[KeywordRequest]) -> Iterator[list[str]]:
        """Choose keywords that fit the theme's topics and cover its concepts."""
        self.prepare(text for r in requests for text in r.theme.concepts)
        for request in requests:
            yield self._choose(request)

    def prepare(self, texts: Iterable[str]) -> None:
        """Embed, in one batch, the texts that are not known keywords."""
        missing = [t for t in dict.fromkeys(texts) if t not in self.keyword_row and t not in self._cache]
        if missing:
            self._cache.update(zip(missing, self.embed(missing), strict=True))

    def vector(self, text: str) -> Array:
        """Vector of a text, float32 [D]; known keywords cost nothing."""
        row = self.keyword_row.get(text)
        if row is not None:
            return self.vectors[row]
        self.prepare([text])
        return self._cache[text]

    def topics_of(self, concepts: Sequence[str]) -> dict[int, float]:
        """Topics that a theme is about, by the share of its concepts that belong to each."""
        found: dict[int, float] = {}
        for text in concepts:
            topic = self._topic_of(text)
            if topic >= 0:
                found[topic] = found.get(topic, 0.0) + 1.0 / len(concepts)
        return found

    def _topic_of(self, text: str) -> int:
        row = self.keyword_row.get(text)
        topic = self._topic_of_name.get(text, -1) if row is None else int(self.statistics.topics.of_keyword[row])
        if topic >= 0:
            return topic
        if text not in self._topic_near:
            # Not a keyword of one topic: what its nearest keywords are about.
            similarity = self.vectors @ self.vector(text)
            near = np.argpartition(-similarity, min(4, len(similarity) - 1))[:5]
            topics = self.statistics.topics.of_keyword[near]
            topics = topics[topics >= 0]
            self._topic_near[text] = int(np.bincount(topics).argmax()) if len(topics) else -1
        return self._topic_near[text]

    def _page(self, profile: Profile, placements: int) -> list[ThemeDraft]:
        page: list[ThemeDraft] = []
        titles: set[str] = set()
        contents: list[set[str]] = []
        _, searches = quoted_texts(profile.text())
        for title, concepts in self._ideas(profile, searches):
            title = _capital(clean(title, TITLE_CHARACTERS))
            kept = tuple(dict.fromkeys(text for text in concepts if presentable(text)))[:4]
            content = set(kept)
            repeats = any(len(content & other) >= 2 for other in contents)
            quote = len(kept) == 1 and kept[0] in searches and content not in contents
            if (len(kept) < 2 and not quote) or title.lower() in titles or repeats:
                continue
            titles.add(title.lower())
            contents.append(content)
            page.append(ThemeDraft(title, kept))
            if len(page) == placements:
                break
        return page

    def _ideas(self, profile: Profile, searches: Sequence[str]) -> Iterator[Idea]:
        """All placements that this shopper could see, best first; the page takes the first that are distinct."""
        known = [self._topic_of_name[name] for name in profile.favourites if name in self._topic_of_name]
        if profile.campaign:
            yield profile.campaign, self._nearest_concepts(clean(profile.campaign, TITLE_CHARACTERS).lower(), 3)
        for search in searches:
            # Nothing but the search: what is near it is found by its vector, whatever shoppers type.
            yield self._title("session", -1, query=search), [search]
        yield from self._about(known, profile)
        if not known:
            for brand in profile.brands:
                yield from self._of_brand(brand, [])
        yield from self._general(profile)

    def _about(self, known: list[int], profile: Profile) -> Iterator[Idea]:
        """Placements about what the shopper buys."""
        for place, topic in enumerate(known):
            others = self.statistics.complements(topic, 3)
            complement = [self._with(topic, others[0], "complement")] if others else []
            yield self._titled("restock", topic)
            if place == 0:
                # Some shoppers' second placement is what another's third is.
                second = [complement, self._occasions(known, profile.season)[:1], self._of_attributes(topic)[:1]]
                turn = _number("order", self.statistics.topics[topic].name) % len(second)
                for ideas in second[turn:] + second[:turn]:
                    yield from ideas
            else:
                yield from complement
            if place < len(profile.brands):
                yield from self._of_brand(profile.brands[place], known)
            if place == 1:
                yield from self._seasonal(profile.season, known)[:1]
                yield from self._occasions(known, profile.season)[1:2]
            if len(others) > 1:
                yield self._with(topic, others[1], "pair")

    def _general(self, profile: Profile) -> Iterator[Idea]:
        """Placements for anyone: what is in season, occasions, what is popular."""
        popular = self.statistics.popular(_MAX_THEMES)
        turn = SEASONS.index(profile.season) if profile.season in SEASONS else 0
        seasonal = self._seasonal(profile.season, [])
        occasions = self._occasions([], profile.season)
        for number in range(_MAX_THEMES):
            if number < len(popular):
                yield self._titled("popular", popular[number])
            if number < len(seasonal):
                yield seasonal[number]
            if number < len(occasions):
                yield occasions[number]
            if number < len(popular):
                topic = popular[(number + turn) % len(popular)]
                yield from self._of_attributes(topic)[:1]

    def _titled(self, kind: str, topic: int, **slots: str) -> Idea:
        return self._title(kind, topic, **slots), self._concepts(topic, kind, 3)

    def _with(self, topic: int, other: int, kind: str) -> Idea:
        """A placement about two topics; a complement shows the other one alone, which is new to the shopper."""
        title = self._title(kind, topic, other=self.statistics.topics[other].name)
        if kind == "complement" and len(theirs := self._concepts(other, kind, 3)) > 1:
            return title, theirs
        return title, [*self._concepts(other, kind, 2), *self._concepts(topic, kind, 2)]

    def _seasonal(self, season: str, known: list[int]) -> list[Idea]:
        if season not in SEASONS:
            return []
        topics = self.statistics.of_season(season, 8)
        topics.sort(key=lambda topic: topic not in known)
        return [self._titled("season", topic, season=season) for topic in topics]

    def _of_brand(self, name: str, known: list[int]) -> list[Idea]:
        brand = self.statistics.brands.get(clean(name, 30))
        if brand is None:
            return []
        topics = sorted(brand.topics, key=lambda topic: topic not in known)[:3]
        title = self._title("brand", topics[0], brand=name)
        concepts = [self._concepts(topic, name, 1)[0] for topic in topics]
        if len(concepts) < 2:
            concepts = self._concepts(topics[0], name, 3)
        return [(title, concepts)]

    def _of_attributes(self, topic: int) -> list[Idea]:
        if topic not in self._attributes_of:
            ideas: list[Idea] = []
            for attribute in self.statistics.attributes.values():
                if topic in attribute.keywords:
                    # Of the topics that go with this one: "vegan" groceries together, not groceries and face creams.
                    lift = self.statistics.lift[topic]
                    near = sorted((o for o in attribute.keywords if o != topic), key=lambda o: (-lift[o], o))[:4]
                    others = _rotated([attribute.keywords[other] for other in near], f"{attribute.name}{topic}", 2)
                    concepts = [attribute.keywords[topic], *others]
                    ideas.append((self._title("attribute", topic, attribute=attribute.name), concepts))
            # One of the best few, so that not every topic shows the same word.
            self._attributes_of[topic] = ideas[_number("attribute", str(topic)) % min(3, len(ideas)) :] if ideas else []
        return self._attributes_of[topic]

    def _occasions(self, known: list[int], season: str) -> list[Idea]:
        """Occasions that suit the shopper's topics and the season, best first."""
        key = (tuple(known), season)
        if key in self._occasions_of:
            return self._occasions_of[key]
        scored = []
        for found in self.occasions:
            seasons = found.occasion.seasons
            if seasons and season not in seasons:
                continue
            fit = sum(topic in found.topics for topic in known) if known else 0.0
            fit += 0.8 * bool(seasons) + 10 * float(self.statistics.popularity[list(found.topics)].mean())
            if known and not any(topic in found.topics for topic in known):
                continue
            scored.append((fit, found))
        scored.sort(key=lambda item: (-item[0], item[1].occasion.titles[0]))
        ideas: list[Idea] = []
        name = self.statistics.topics[known[0]].name if known else ""
        for _, found in scored[:8]:
            title = found.occasion.titles[_number("occasion", name + season) % len(found.occasion.titles)]
            ideas.append((title, _rotated(found.concepts, title, 3)))
        self._occasions_of[key] = ideas
        return ideas

    def _title(self, kind: str, topic: int, **slots: str) -> str:
        patterns = getattr(self.lexicon.titles, kind)
        name = self.statistics.topics[topic].name if topic >= 0 else ""
        start = _number(kind, name + "".join(slots.values()))
        values = {"topic": name, "other": "", "query": "", "brand": "", "attribute": "", "season": "", **slots}
        values |= {key.capitalize(): _capital(value) for key, value in values.items()}
        for turn in range(len(patterns)):
            title = str(patterns[(start + turn) % len(patterns)].format(**values))
            # "Your summer list" of winter, "Milk and milk powder": words said twice read like a machine.
            said = [word for word in title.lower().split() if len(word) > 3]
            if len(title) <= 48 and len(set(said)) == len(said):
                return title
        return str(patterns[start % len(patterns)].format(**values))

    def _concepts(self, topic: int, key: str, count: int) -> list[str]:
        """Concepts of a topic, another selection for another key; the best ones most often."""
        return _rotated(self.statistics.topics[topic].concepts[:8], f"{key}{topic}", count)

    def _nearest_concepts(self, text: str, count: int) -> list[str]:
        """Known keywords near a text, of different words."""
        if text not in self._near:
            self._find_near([text])
        return self._near[text][:count]

    def _find_near(self, texts: Iterable[str]) -> None:
        """Find the keywords near many texts at once; only keywords that show products of one kind."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._near]
        names = self.statistics.store.keywords
        for start in range(0, len(missing), 256):
            part = missing[start : start + 256]
            similarity = np.stack([self.vector(text) for text in part]) @ self._concept_vectors.T
            count = min(_NEAR, similarity.shape[1])
            best = (
                np.argpartition(-similarity, count - 1, axis=1)[:, :count] if count else np.empty((len(part), 0), int)
            )
            for text, columns, values in zip(part, best, similarity, strict=True):
                found = {stems(text): text}
                for column in sorted(columns.tolist(), key=lambda c: -values[c]):
                    keyword = names[int(self._concept_rows[column])]
                    found.setdefault(stems(keyword), keyword)
                self._near[text] = list(found.values())[1:]

    def _find_occasions(self) -> list[_FoundOccasion]:
        wants = list(dict.fromkeys(want for occasion in self.lexicon.occasion for want in occasion.wants))
        self.prepare(wants)
        by_stems: dict[frozenset[str], str] = {}
        for text in self.statistics.store.keywords:
            if presentable(text):
                by_stems.setdefault(stems(text), text)
        keyword_of: dict[str, str] = {}
        for want in wants:
            match = by_stems.get(stems(want))
            if match is None:
                similarity = self.vectors @ self.vector(want)
                row = int(similarity.argmax())
                near = self.statistics.store.keywords[row]
                match = near if similarity[row] >= _SAME_THING and presentable(near) else None
            if match is not None:
                keyword_of[want] = match
        found = []
        for occasion in self.lexicon.occasion:
            concepts = tuple(dict.fromkeys(keyword_of[want] for want in occasion.wants if want in keyword_of))
            topics = frozenset(self.topics_of(concepts)) if concepts else frozenset()
            if len(concepts) >= 2 and topics and len(concepts) * 2 >= len(occasion.wants):
                found.append(_FoundOccasion(occasion, concepts, topics))
        return found

    def _choose(self, request: KeywordRequest) -> list[str]:
        """Take turns over the concepts: each takes the best keyword left, by nearness, topic and popularity."""
        concepts = request.theme.concepts
        rows = [self.keyword_row[text] for text in request.candidates if text in self.keyword_row]
        if not rows or not concepts:
            return []
        wanted = self.topics_of(concepts)
        near = self.vectors[rows] @ np.stack([self.vector(text) for text in concepts]).T
        topics = self.statistics.topics.of_keyword[rows]
        of_theme = np.array([wanted.get(int(topic), 0.0) > 0 for topic in topics], np.float32)
        mixed = (topics < 0).astype(np.float32)
        counts = np.log1p(self.statistics.store.keyword_counts[rows].astype(np.float32))
        popular = counts / max(float(counts.max()), 1.0)
        worth = near + (0.35 * of_theme + 0.05 * mixed + 0.1 * popular)[:, None]
        # Off the theme's topics only what is all but the concept itself.
        worth[(of_theme == 0) & (near.max(axis=1) < 0.8)] -= 0.5
        # Brands, sizes and typing errors narrow a placement without need.
        worth[~self.statistics.topics.conceptual[rows]] -= 0.3
        chosen: list[int] = []
        said: set[frozenset[str]] = set()
        texts = [self.statistics.store.keywords[row] for row in rows]
        for turn in range(request.choose * 4):
            order = np.argsort(-worth[:, turn % len(concepts)], kind="stable")
            pick = next((int(i) for i in order if int(i) not in chosen and stems(texts[int(i)]) not in said), -1)
            if pick < 0:
                break
            chosen.append(pick)
            said.add(stems(texts[pick]))
            if len(chosen) == request.choose:
                break
        return [texts[index] for index in chosen]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _number(kind: str, text: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{kind}/{text}".encode(), digest_size=4).digest(), "little")


@lru_cache(maxsize=50_000)
def _order(texts: tuple[str, ...], key: str, count: int) -> tuple[str, ...]:
    order = sorted(range(len(texts)), key=lambda index: index * 0.35 + (_number(key, texts[index]) % 1000) / 1000)
    return tuple(texts[index] for index in sorted(order[:count]))


def _rotated(texts: Sequence[str], key: str, count: int) -> list[str]:
    """Choose `count` texts by a key, in their order, with the first ones favoured."""
    return list(_order(tuple(texts), key, count))
