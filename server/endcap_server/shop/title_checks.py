"""Checks of generated titles against the catalogue: their script, their words, the brands they name."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from endcap_server.shop.store import ItemStore
from endcap_server.shop.text import folded_name
from endcap_server.shop.words import LITTLE_WORDS, stem

_WORD = re.compile(r"[^\W_]+")
_SAMPLE = 500
_LEAST_SHARE = 0.01


@lru_cache(maxsize=4096)
def script_of(letter: str) -> str:
    """Name of a letter's script, as Unicode's character names begin: LATIN, CYRILLIC, CJK, ..."""
    return unicodedata.name(letter, "UNKNOWN").split(" ", 1)[0].removesuffix("-COMPATIBILITY")


def _scripts(text: str) -> Counter[str]:
    # NFKC: full-width and other presentation forms count as the letters they show.
    return Counter(script_of(char) for char in unicodedata.normalize("NFKC", text) if char.isalpha())


@dataclass(frozen=True)
class ScriptCheck:
    """The scripts that titles may be written in."""

    allowed: frozenset[str]

    @classmethod
    def of(cls, store: ItemStore, configured: str) -> "ScriptCheck":
        """Scripts by name ("LATIN,CYRILLIC"), or for "auto" those of the catalogue's own titles."""
        if configured != "auto":
            return cls(frozenset(name.strip().upper() for name in configured.split(",") if name.strip()))
        counts: Counter[str] = Counter()
        for row in np.linspace(0, len(store) - 1, min(_SAMPLE, len(store))).astype(int).tolist():
            counts += _scripts(store.titles[row])
        least = _LEAST_SHARE * counts.total()
        return cls(frozenset(name for name, count in counts.items() if count >= least))

    def allows(self, text: str) -> bool:
        """Whether every letter of ``text`` belongs to an allowed script, and there is one."""
        found = _scripts(text)
        return bool(found) and found.keys() <= self.allowed


@dataclass(frozen=True)
class BrandCheck:
    """Finds the catalogue's brands in a text.

    Brands of one or two letters, and brands that consist of words of category names ("Garden Tools"), are left out: in
    a title they are usually not names.
    """

    by_first_word: dict[str, list[tuple[str, ...]]]

    @classmethod
    def of(cls, store: ItemStore) -> "BrandCheck":
        """Prepare the check for a catalogue."""
        common = {word for category in (*store.categories, *store.category_labels) for word in _words(category)}
        found: dict[str, list[tuple[str, ...]]] = {}
        for brand in store.brands:
            words = tuple(_words(brand))
            if words and len("".join(words)) > 2 and not all(word in common for word in words):
                found.setdefault(words[0], []).append(words)
        return cls(found)

    def named_in(self, text: str) -> set[tuple[str, ...]]:
        """The brands, as folded words, that ``text`` names."""
        words = tuple(_words(text))
        return {
            brand
            for start, word in enumerate(words)
            for brand in self.by_first_word.get(word, ())
            if words[start : start + len(brand)] == brand
        }


TITLE_WORDS = "title_words.txt"
"""File that the build step writes beside a theme student: the words of its training titles, one per line."""
SEARCH_WORDS = "search_words.txt"
"""The words that only its titles about a search have ("searched"), one per line."""
TITLE_JOINS = "title_joins.txt"
"""The pairs of neighbouring little words that its titles have ("with your"), one per line; "." is the title's end."""
_END = "."
_TEXTS_END = re.compile(r"[|;,:{}\"]")
_LEAST_TITLES = 3
_UNKNOWN_TOKENS = ("[UNK]", "<unk>")


@dataclass(frozen=True)
class WordCheck:
    """What LLM 1's training titles say of its titles: their words, those about searches, and how little words meet.

    Attributes:
        known: words of the catalogue and of the titles.
        of_searches: words that only titles about a search have.
        joins: pairs of neighbouring little words of the titles; None: they are not known.
        language: the tokenizer of the bi-encoder. A word that is one of its tokens is frequent in the language and well
            spelt, though the catalogue may not have it; None: no word counts for that.
    """

    known: frozenset[str]
    of_searches: frozenset[str] = frozenset()
    joins: frozenset[str] | None = None
    language: Tokenizer | None = None

    @classmethod
    def of(cls, store: ItemStore, student: Path, tokenizer: Path | None = None) -> "WordCheck | None":
        """Prepare the check; None if the student's folder has no list of words.

        Args:
            store: the catalogue.
            student: folder of LLM 1.
            tokenizer: `tokenizer.json` of the bi-encoder, which may be missing.
        """
        path = student / TITLE_WORDS
        if not path.exists():
            return None
        known = set(path.read_text(encoding="utf-8").split())
        for texts in (store.keywords, store.categories, store.category_labels, store.brands):
            for text in texts:
                known.update(_words(text))
        searches, joins = _lines(student / SEARCH_WORDS), _lines(student / TITLE_JOINS)
        language = None
        if tokenizer is not None and tokenizer.exists():
            language = Tokenizer.from_file(str(tokenizer))
            language.no_padding()
        return cls(frozenset(known), frozenset(searches or ()), None if joins is None else frozenset(joins), language)

    def unknown_in(self, title: str, context: str) -> list[str]:
        """Words of at least three letters that neither the check nor ``context`` (the prompt of LLM 1) knows."""
        asked = set(_words(context))
        unsaid = [word for word in _words(title) if len(word) > 2 and word not in self.known and word not in asked]
        return [word for word in unsaid if not self._is_ordinary(word)]

    def _is_ordinary(self, word: str) -> bool:
        """Whether the language model of the bi-encoder has the word as a whole."""
        if self.language is None:
            return False
        tokens = self.language.encode(word, add_special_tokens=False).ids
        return len(tokens) == 1 and self.language.id_to_token(tokens[0]) not in _UNKNOWN_TOKENS

    def speaks_of_a_search(self, title: str) -> bool:
        """Whether the title has a word that belongs to a search: "Your search for cheese"."""
        return not self.of_searches.isdisjoint(_words(title))

    def is_broken(self, title: str, context: str) -> bool:
        """Whether little words meet that meet neither in the training titles nor in ``context``: "Cheese plus from"."""
        if self.joins is None:
            return False
        return not _joins(title) <= self.joins.union(*map(_joins, _TEXTS_END.split(context)))


def search_words(about_searches: Iterable[tuple[str, str]], others: Iterable[str]) -> list[str]:
    """The words that only titles about a search have, sorted: what `SEARCH_WORDS` holds.

    Args:
        about_searches: title and search text; the words of the text itself do not count.
        others: titles about something else.
    """
    counts: Counter[str] = Counter()
    for title, search in about_searches:
        counts.update(set(_words(title)) - set(_words(search)))
    elsewhere = {word for title in others for word in _words(title)}
    return sorted(word for word, count in counts.items() if count >= _LEAST_TITLES and word not in elsewhere)


def title_words(titles: Iterable[str]) -> list[str]:
    """The distinct folded words of ``titles``, sorted: what `TITLE_WORDS` holds."""
    return sorted({word for title in titles for word in _words(title)})


def title_joins(titles: Iterable[str]) -> list[str]:
    """The distinct pairs of neighbouring little words of ``titles``, sorted: what `TITLE_JOINS` holds."""
    return sorted({join for title in titles for join in _joins(title)})


def _joins(title: str) -> set[str]:
    """Each little word with what follows it, if that is another one or the title's end."""
    words = [*_words(title), _END]
    ends = {*LITTLE_WORDS, _END}
    return {f"{one} {two}" for one, two in pairwise(words) if one in LITTLE_WORDS and two in ends}


def _lines(path: Path) -> list[str] | None:
    """The lines of a list, None without the file."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else None


def _words(text: str) -> list[str]:
    return _WORD.findall(folded_name(text))


@lru_cache(maxsize=4096)
def _content(title: str) -> frozenset[str]:
    return frozenset(stem(word) for word in _words(title) if word not in LITTLE_WORDS)


def lists_a_thing_twice(title: str) -> bool:
    """Whether a title lists a thing twice, between commas and little words: "Milk and milk", "Eggs, bread and eggs"."""
    things: list[frozenset[str]] = []
    for part in title.split(","):
        thing: set[str] = set()
        for word in [*_words(part), "and"]:
            if word not in LITTLE_WORDS:
                thing.add(stem(word))
            elif thing:
                things.append(frozenset(thing))
                thing = set()
    return len(set(things)) < len(things)


def title_overlap(one: str, two: str) -> float:
    """Share of common content words (Jaccard, 0..1) of two titles; 1 for titles without any."""
    first, second = _content(one), _content(two)
    return len(first & second) / len(first | second) if first | second else 1.0
