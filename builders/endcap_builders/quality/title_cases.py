"""Cases for the checks of titles: good ones, and corruptions of them that the checks were not written from."""

import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
from endcap_server.shop.prompts import ThemeDraft
from endcap_server.shop.text import folded_name
from endcap_server.shop.words import stems

from endcap_builders.merchandising.statistics import Statistics
from endcap_builders.merchandising.topics import TitleIndex, Topic

MISSPELT, BRAND, POLICY, OFF_CATALOGUE = "misspelt", "wrong brand", "policy", "off catalogue"
LANGUAGE, EXCLUDED, DUPLICATE = "wrong language", "excluded thing", "duplicate"
FAULTS = (MISSPELT, BRAND, POLICY, OFF_CATALOGUE, LANGUAGE, EXCLUDED, DUPLICATE)

_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_LEAST_LETTERS = 4
_MAIN_SHARE = 0.9
_TRIES = 20


@dataclass(frozen=True)
class TitlePage:
    """A page as LLM 1 writes it, and the theme of it that is checked.

    Attributes:
        drafts: what LLM 1 writes.
        shopper: the shopper text.
        place: of the theme in question, or -1 for all of them.
        rules: of the request.
        detail: what was done to the title, for reports.
    """

    drafts: tuple[ThemeDraft, ...]
    shopper: str
    place: int = 0
    rules: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""

    @property
    def asked(self) -> tuple[ThemeDraft, ...]:
        """The themes in question."""
        return self.drafts if self.place < 0 else self.drafts[self.place : self.place + 1]


@dataclass(frozen=True)
class TitleTexts:
    """The texts of `title_cases.toml`."""

    coined: tuple[str, ...]
    things: tuple[str, ...]
    languages: Mapping[str, Sequence[str]]
    policy: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls) -> "TitleTexts":
        """Read the file."""
        text = resources.files("endcap_builders.quality").joinpath("title_cases.toml").read_text(encoding="utf-8")
        found = tomllib.loads(text)
        return cls(tuple(found["coined"]), tuple(found["things"]), found["languages"], found["policy"])


class TitleCases:
    """Makes cases for a catalogue.

    Args:
        statistics: of the catalogue, with its topics.
        seed: of all draws.
    """

    def __init__(self, statistics: Statistics, seed: int):
        self._statistics, self._store = statistics, statistics.store
        self._texts = TitleTexts.read()
        self._rng = random.Random(seed)
        self._topics = [topic for topic in statistics.topics.topics if len(topic.name) <= _most_letters(self._texts)]

    def coined(self, count: int) -> list[TitlePage]:
        """Good titles in words of a language model, about kinds of the catalogue."""
        pages = []
        for pattern in self._cycled(self._texts.coined, count):
            topic = self._rng.choice(self._topics)
            draft = ThemeDraft(_filled(pattern, topic.name), topic.concepts[:3])
            pages.append(TitlePage((draft,), _liking(topic)))
        return pages

    def faults(self, good: Sequence[TitlePage], count: int) -> dict[str, list[TitlePage]]:
        """Up to `count` corruptions of every kind.

        Args:
            good: single titles that the checks let pass.
            count: cases of each kind.
        """
        return {
            MISSPELT: self._first(self._misspelt(good), count),
            BRAND: self._first(self._of_other_brands(good), count),
            POLICY: self._first(self._against_policy(), count),
            OFF_CATALOGUE: self._first(self._off_catalogue(), count),
            LANGUAGE: self._first(self._in_other_languages(), count),
            EXCLUDED: self._first(self._about_excluded(same=True), count),
            DUPLICATE: self._first(self._duplicates(), count),
        }

    def beside_exclusions(self, count: int) -> list[TitlePage]:
        """Good titles in requests that exclude something else."""
        return self._first(self._about_excluded(same=False), count)

    def _misspelt(self, good: Sequence[TitlePage]) -> Iterator[TitlePage]:
        for page in good:
            draft = page.drafts[0]
            words = draft.title.split()
            long = [n for n, word in enumerate(words) if len(word) >= _LEAST_LETTERS and word.isalpha()]
            if long:
                place = self._rng.choice(long)
                wrong = self._mistyped(words[place])
                title = " ".join([*words[:place], wrong, *words[place + 1 :]])
                yield _with_title(page, title, f"{words[place]} -> {wrong}")

    def _mistyped(self, word: str) -> str:
        """A word with one error of typing: letters swapped, left out, typed twice, or one of a key beside it."""
        rng, lower = self._rng, word.lower()
        while True:
            at = rng.randrange(1, len(word))
            kind = rng.choice(("swap", "drop", "double", "beside"))
            if kind == "swap":
                wrong = word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]
            elif kind == "drop":
                wrong = word[:at] + word[at + 1 :]
            elif kind == "double":
                wrong = word[:at] + word[at] + word[at:]
            else:
                wrong = word[:at] + rng.choice(_beside(lower[at])) + word[at + 1 :]
            if wrong.lower() != lower:
                return wrong

    def _of_other_brands(self, good: Sequence[TitlePage]) -> Iterator[TitlePage]:
        brands = [brand for brand in self._store.brands if brand.strip()]
        for page in good if brands else ():
            draft, brand = page.drafts[0], self._rng.choice(brands)
            said = folded_name(" ".join([draft.title, page.shopper, *draft.concepts]))
            if folded_name(brand) not in said:
                title = self._rng.choice((f"{brand} {_small(draft.title)}", f"{draft.title} from {brand}"))
                yield _with_title(page, title, brand)

    def _against_policy(self) -> Iterator[TitlePage]:
        phrases = [(section, text) for section, texts in self._texts.policy.items() for text in texts]
        for section, text in self._forever(phrases):
            topic = self._rng.choice(self._topics)
            draft = ThemeDraft(_filled(text, topic.name), topic.concepts[:3])
            yield TitlePage((draft,), _liking(topic), detail=section)

    def _off_catalogue(self) -> Iterator[TitlePage]:
        """Titles about kinds of products of which no product of the catalogue has all words in its title."""
        index = TitleIndex(self._store.titles)
        foreign = [thing for thing in self._texts.things if not len(index.match(stems(thing)))]
        patterns = [pattern for pattern in self._texts.coined if "opic}" in pattern]
        for thing in self._forever(foreign):
            draft = ThemeDraft(_filled(self._rng.choice(patterns), thing), (thing,))
            yield TitlePage((draft,), _liking(self._rng.choice(self._topics)), detail=thing)

    def _in_other_languages(self) -> Iterator[TitlePage]:
        titles = [(language, title) for language, each in self._texts.languages.items() for title in each]
        for language, title in self._rng.sample(titles, len(titles)):
            topic = self._rng.choice(self._topics)
            yield TitlePage((ThemeDraft(title, topic.concepts[:2]),), _liking(topic), detail=language)

    def _about_excluded(self, *, same: bool) -> Iterator[TitlePage]:
        """Titles about a kind by a shopper's word for it, where the request excludes its categories, or others."""
        known = [(topic, categories) for topic in self._topics if (categories := self._categories_of(topic))]
        patterns = [pattern for pattern in self._texts.coined if "opic}" in pattern]
        for topic, categories in self._forever(known):
            names = stems(" ".join(self._store.category_labels[place] for place in categories))
            others = [text for text in topic.concepts if not stems(text) & names]
            if not others:
                continue
            excluded = categories
            if not same:
                other, excluded = self._rng.choice(known)
                if set(excluded) & set(categories) or other.parent == topic.parent:
                    continue
            word = self._rng.choice(others)
            rules = {"exclude": {"categories": [self._store.categories[place] for place in excluded]}}
            draft = ThemeDraft(_filled(self._rng.choice(patterns), word), (word,))
            yield TitlePage((draft,), _liking(topic), rules=rules, detail=topic.name)

    def _categories_of(self, topic: Topic) -> tuple[int, ...]:
        """The categories that hold nearly all products of a topic; none if too many have no category."""
        places = self._store.category[topic.rows]
        found, counts = np.unique(places[places >= 0], return_counts=True)
        if counts.sum() < _MAIN_SHARE * len(places) or not len(found):
            return ()
        order = np.argsort(-counts, kind="stable")
        enough = int(np.searchsorted(np.cumsum(counts[order]), _MAIN_SHARE * len(places))) + 1
        return tuple(found[order[:enough]].tolist())

    def _duplicates(self) -> Iterator[TitlePage]:
        """A second title about the one kind of the first, in other words and with other concepts."""
        patterns = [pattern for pattern in self._texts.coined if "opic}" in pattern]
        for topic in self._forever([topic for topic in self._topics if len(topic.concepts) >= 4]):
            one, two = self._rng.sample(patterns, 2)
            first = ThemeDraft(_filled(one, topic.name), topic.concepts[:2])
            second = ThemeDraft(_filled(two, topic.name), topic.concepts[2:4])
            yield TitlePage((first, second), _liking(topic), place=1, detail=topic.name)

    def _first(self, cases: Iterator[TitlePage], count: int) -> list[TitlePage]:
        """The first distinct cases."""
        found: dict[tuple[str, ...], TitlePage] = {}
        for _, case in zip(range(_TRIES * count), cases, strict=False):
            found.setdefault(tuple(draft.title for draft in case.drafts), case)
            if len(found) == count:
                break
        return list(found.values())

    def _forever(self, items: Sequence[Any]) -> Iterator[Any]:
        """The items in random order, again and again."""
        while items:
            yield from self._rng.sample(items, len(items))

    def _cycled(self, items: Sequence[str], count: int) -> Iterator[str]:
        return (item for _, item in zip(range(count), self._forever(items), strict=False))


def _with_title(page: TitlePage, title: str, detail: str) -> TitlePage:
    return TitlePage((ThemeDraft(title, page.drafts[0].concepts),), page.shopper, detail=detail)


def _liking(topic: Topic) -> str:
    return f"likes:{topic.name}"


def _filled(pattern: str, name: str) -> str:
    return pattern.replace("{topic}", name).replace("{Topic}", name[:1].upper() + name[1:])


def _small(title: str) -> str:
    return title[:1].lower() + title[1:]


def _beside(letter: str) -> str:
    """The letters beside one on a keyboard."""
    for row in _KEYBOARD:
        if (at := row.find(letter)) >= 0:
            return row[max(at - 1, 0) : at] + row[at + 1 : at + 2]
    return "e"


def _most_letters(texts: TitleTexts) -> int:
    """Letters of a topic's name with which every title stays short enough."""
    return 60 - max(len(text) for text in (*texts.coined, *(one for each in texts.policy.values() for one in each)))
