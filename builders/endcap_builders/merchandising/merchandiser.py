"""A merchandiser in code: the cold-start teacher of a shop without an LLM.

It writes themes from what the catalogue's events and searches say (what is bought again, bought together, in season,
which searches cut across topics) and words them by the patterns of `lexicon.toml`. It is a baseline: a student that
learns from it can be no more inventive than its patterns, and an LLM teacher (`openai_teacher`) writes better themes.
What it writes follows from the shopper text alone, because students decode greedily.
"""

from collections.abc import Iterator, Sequence

from endcap_server.shop.prompts import TITLE_CHARACTERS, ThemeDraft, clean, quoted_texts
from endcap_server.shop.words import distinct_things, specific_first, words

from endcap_builders.merchandising.keyword_choice import choose_keywords
from endcap_builders.merchandising.lexicon import Lexicon
from endcap_builders.merchandising.quality import MAX_WORDS
from endcap_builders.merchandising.statistics import SEASONS, Occasion, Statistics
from endcap_builders.merchandising.teacher import KeywordRequest, Profile, ThemeTask
from endcap_builders.merchandising.topics import plural_forms, presentable
from endcap_builders.merchandising.vocabulary import Embed, Vocabulary

_MAX_THEMES = 24
_TITLE_LIMIT = 48
Idea = tuple[str, Sequence[str]]
"""A title and concepts, before they are checked."""


class Merchandiser:
    """Implements `teacher.Teacher`."""

    def __init__(self, statistics: Statistics, lexicon: Lexicon, embed: Embed) -> None:
        self.statistics, self.lexicon = statistics, lexicon
        self.vocabulary = Vocabulary(statistics, embed)
        self._topic_of_name = statistics.topics.by_name()
        self._plurals = plural_forms(statistics.store)
        self._attributes_of: dict[int, list[Idea]] = {}

    def themes(self, requests: Sequence[ThemeTask]) -> Iterator[list[ThemeDraft]]:
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
            title = _capital(clean(title, TITLE_CHARACTERS, commas=True))
            kept = tuple(distinct_things(text for text in concepts if presentable(text)))[:4]
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
        known = self._topics(profile.bought)
        due = self._topics(profile.due)
        if profile.campaign:
            yield (
                profile.campaign,
                self.vocabulary.nearest_concepts(clean(profile.campaign, TITLE_CHARACTERS).lower(), 3),
            )
        for place, search in enumerate(searches):
            # Nothing but the search: what is near it is found by its vector, whatever shoppers type.
            yield self._title("session", place, query=search), [search]
        new = self._topics(sorted(profile.new))
        lists = [topics for names in profile.likes if len(topics := self._topics(names)) > 1]
        for place, topics in enumerate(lists):
            yield self._list(topics, new, place)
        yield from self._bought_again(due)
        yield from self._about([topic for topic in known if topic not in due[:2]], known, profile)
        if not known:
            for place, brand in enumerate(profile.brands):
                yield from self._of_brand(brand, [], place)
        yield from self._general(profile)

    def _list(self, topics: list[int], new: list[int], place: int) -> Idea:
        """Kinds by the names that the shopper text has, so that a student copies them; they are the concepts too."""
        names = [self.statistics.topics[topic].name for topic in topics]
        slots = {"topic": names[0], "other": names[1], "third": names[-1]}
        bought_again = all(self.statistics.restocked[topic] and topic not in new for topic in topics)
        again = "_again" if bought_again else ""
        title = self._title(f"list{again}", place, -1, **slots) if len(topics) > 2 else ""
        if not _fits(title):
            title = self._title(f"pair{again}", place, -1, **slots)
        return title, names

    def _topics(self, names: Sequence[str]) -> list[int]:
        return [self._topic_of_name[name] for name in names if name in self._topic_of_name]

    def _bought_again(self, due: list[int]) -> Iterator[Idea]:
        """Placements about what the shopper probably needs again."""
        for place, topic in enumerate(due[:2]):
            yield self._titled("restock", topic, place)

    def _about(self, shown: list[int], known: list[int], profile: Profile) -> Iterator[Idea]:
        """Placements about what the shopper buys: what is bought again as such, what lasts by what goes with it."""
        occasions = self._occasions(known, profile.season)
        for place, topic in enumerate(shown):
            others = self.statistics.complements(topic, 3)
            if self.statistics.restocked[topic]:
                yield self._titled("favourite", topic, place)
            if others:
                yield self._with(topic, others[0], "complement", place)
            if not self.statistics.restocked[topic]:
                yield self._titled("discover", topic, place)
            if place < len(occasions):
                yield self._occasion(occasions[place])
            if place < len(profile.brands):
                yield from self._of_brand(profile.brands[place], known, place)
            if place == 1:
                yield from self._seasonal(profile.season, known)[:1]
            yield from self._of_attributes(topic)[:1]
            if len(others) > 1:
                yield self._with(topic, others[1], "pair", place)

    def _general(self, profile: Profile) -> Iterator[Idea]:
        """Placements for anyone: what is in season, occasions, what is popular."""
        popular = self.statistics.popular(_MAX_THEMES)
        # Another season, another start: new shoppers do not see one page all year.
        turn = SEASONS.index(profile.season) if profile.season in SEASONS else 0
        popular = popular[turn:] + popular[:turn]
        seasonal = self._seasonal(profile.season, [])
        occasions = self._occasions([], profile.season)
        for place, topic in enumerate(popular):
            if place < len(occasions):
                yield self._occasion(occasions[place])
            yield self._titled("popular", topic, place)
            if place < len(seasonal):
                yield seasonal[place]
            yield from self._of_attributes(topic)[:1]

    def _titled(self, kind: str, topic: int, place: int, **slots: str) -> Idea:
        return self._title(kind, place, topic, **slots), self._concepts(topic, 3)

    def _with(self, topic: int, other: int, kind: str, place: int) -> Idea:
        """A placement about two topics; a complement shows the other one alone, which is new to the shopper."""
        title = self._title(kind, place, topic, other=self._name(other))
        if kind == "complement" and len(theirs := self._concepts(other, 3)) > 1:
            return title, theirs
        return title, [*self._concepts(other, 2), *self._concepts(topic, 2)]

    def _seasonal(self, season: str, known: list[int]) -> list[Idea]:
        topics = self.statistics.of_season(season, 8)
        topics.sort(key=lambda topic: topic not in known)
        return [self._titled("season", topic, place, season=season) for place, topic in enumerate(topics)]

    def _of_brand(self, name: str, known: list[int], place: int) -> list[Idea]:
        brand = self.statistics.brands.get(clean(name, 30))
        if brand is None:
            return []
        topics = sorted(brand.topics, key=lambda topic: topic not in known)
        title = self._title("brand", place, topics[0], brand=name)
        # The brand's own keywords, where there are some: others would fill the placement with other brands.
        own = [f"{name} {self.statistics.topics[topic].name}".lower() for topic in topics]
        concepts = [text for text in own if text in self.vocabulary.row and presentable(text)][:3]
        if len(concepts) < 2:
            concepts = [self._concepts(topic, 1)[0] for topic in topics[:3]]
        if len(concepts) < 2:
            concepts = self._concepts(topics[0], 3)
        return [(title, concepts)]

    def _of_attributes(self, topic: int) -> list[Idea]:
        """Placements of a word such as "organic" over topics that go with this one, widest word first."""
        if topic not in self._attributes_of:
            ideas: list[Idea] = []
            lift = self.statistics.lift[topic]
            for attribute in self.statistics.attributes.values():
                if topic in attribute.keywords:
                    # Of the topics that go with this one: "vegan" groceries together, not groceries and face creams.
                    near = sorted((o for o in attribute.keywords if o != topic), key=lambda o: (-lift[o], o))[:2]
                    concepts = [attribute.keywords[topic], *(attribute.keywords[other] for other in near)]
                    ideas.append((self._title("attribute", len(ideas), topic, attribute=attribute.name), concepts))
            self._attributes_of[topic] = ideas
        return self._attributes_of[topic]

    def _occasions(self, known: list[int], season: str) -> list[Occasion]:
        """Occasions of the search log that suit the shopper's topics and the season, best first."""
        scored = []
        for occasion in self.statistics.occasions:
            shared = sum(topic in known for topic in occasion.topics)
            if (occasion.season and occasion.season != season) or (known and not shared):
                continue
            scored.append((shared + 0.8 * bool(occasion.season) + 0.2 * occasion.weight, occasion))
        scored.sort(key=lambda item: (-item[0], item[1].name))
        return [occasion for _, occasion in scored[:8]]

    def _occasion(self, occasion: Occasion) -> Idea:
        return occasion.name, [self._concepts(topic, 1)[0] for topic in occasion.topics]

    def _title(self, kind: str, place: int, about: int = -1, **slots: str) -> str:
        """Word a title: what it is about chooses the patterns, its place on the page the one to begin with."""
        patterns = getattr(self.lexicon.titles, kind)
        name = self._name(about) if about >= 0 else ""
        values = {
            "topic": name,
            "other": "",
            "third": "",
            "query": "",
            "brand": "",
            "attribute": "",
            "season": "",
            **slots,
        }
        values |= {key.capitalize(): _capital(value) for key, value in values.items()}
        for turn in range(len(patterns)):
            title = str(patterns[(place + turn) % len(patterns)].format(**values))
            # "Your summer list" of winter, "Milk and milk powder": words said twice read like a machine.
            said = [word for word in words(title) if len(word) > 3]
            if _fits(title) and len(set(said)) == len(said):
                return title
        return str(patterns[place % len(patterns)].format(**values))

    def _name(self, topic: int) -> str:
        """A topic's name in the plural where the catalogue itself has one."""
        head, _, last = self.statistics.topics[topic].name.rpartition(" ")
        return f"{head} {self._plurals.get(last, last)}".strip()

    def _concepts(self, topic: int, count: int) -> list[str]:
        """The best concepts of a topic, each another thing."""
        return distinct_things(specific_first(self.statistics.topics[topic].concepts[:8]))[:count]


def _fits(title: str) -> bool:
    return 0 < len(title) <= _TITLE_LIMIT and len(title.split()) <= MAX_WORDS


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
