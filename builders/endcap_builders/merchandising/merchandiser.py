"""The default teacher: a merchandiser in code, who writes themes and chooses keywords from the catalogue's statistics.

What it writes follows from the shopper text alone, by stable hashes instead of dice: students decode greedily, and a
teacher that answers one text in ten ways teaches them the one way that offends least.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from endcap_server.shop.prompts import TITLE_CHARACTERS, ThemeDraft, clean, quoted_texts

from endcap_builders.merchandising.keyword_choice import choose_keywords
from endcap_builders.merchandising.lexicon import Lexicon, Occasion
from endcap_builders.merchandising.statistics import SEASONS, Statistics
from endcap_builders.merchandising.teacher import KeywordRequest, Profile, ThemeRequest
from endcap_builders.merchandising.topics import presentable, stems
from endcap_builders.merchandising.vocabulary import Embed, Vocabulary

_SAME_THING = 0.72
_MAX_THEMES = 24
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
        self.statistics, self.lexicon = statistics, lexicon
        self.vocabulary = Vocabulary(statistics, embed)
        self._topic_of_name = statistics.topics.by_name()
        self._attributes_of: dict[int, list[Idea]] = {}
        self._occasions_of: dict[tuple[tuple[int, ...], str], list[Idea]] = {}
        self.occasions = self._find_occasions()

    def themes(self, requests: Sequence[ThemeRequest]) -> Iterator[list[ThemeDraft]]:
        """Write an ordered page for each request."""
        texts = {clean(r.profile.campaign, TITLE_CHARACTERS).lower() for r in requests if r.profile.campaign}
        self.vocabulary.find_near(texts)
        for request in requests:
            yield self._page(request.profile, request.placements)

    def choose_keywords(self, requests: Sequence[KeywordRequest]) -> Iterator[list[str]]:
        """Choose keywords that fit the theme's topics and cover its concepts."""
        self.vocabulary.prepare(text for r in requests for text in r.theme.concepts)
        for request in requests:
            yield choose_keywords(self.vocabulary, request)

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
            yield (
                profile.campaign,
                self.vocabulary.nearest_concepts(clean(profile.campaign, TITLE_CHARACTERS).lower(), 3),
            )
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
        topics = sorted(brand.topics, key=lambda topic: topic not in known)
        title = self._title("brand", topics[0], brand=name)
        # The brand's own keywords, where there are some: others would fill the placement with other brands.
        own = [f"{name} {self.statistics.topics[topic].name}".lower() for topic in topics]
        concepts = [text for text in own if text in self.vocabulary.row and presentable(text)][:3]
        if len(concepts) < 2:
            concepts = [self._concepts(topic, name, 1)[0] for topic in topics[:3]]
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

    def _find_occasions(self) -> list[_FoundOccasion]:
        wants = list(dict.fromkeys(want for occasion in self.lexicon.occasion for want in occasion.wants))
        self.vocabulary.prepare(wants)
        by_stems: dict[frozenset[str], str] = {}
        for text in self.statistics.store.keywords:
            if presentable(text):
                by_stems.setdefault(stems(text), text)
        keyword_of: dict[str, str] = {}
        for want in wants:
            match = by_stems.get(stems(want))
            if match is None:
                similarity = self.vocabulary.vectors @ self.vocabulary.vector(want)
                row = int(similarity.argmax())
                near = self.statistics.store.keywords[row]
                match = near if similarity[row] >= _SAME_THING and presentable(near) else None
            if match is not None:
                keyword_of[want] = match
        found = []
        for occasion in self.lexicon.occasion:
            concepts = tuple(dict.fromkeys(keyword_of[want] for want in occasion.wants if want in keyword_of))
            topics = frozenset(self.vocabulary.topics_of(concepts)) if concepts else frozenset()
            if len(concepts) >= 2 and topics and len(concepts) * 2 >= len(occasion.wants):
                found.append(_FoundOccasion(occasion, concepts, topics))
        return found


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
