"""Words and their stems, by which every part of endcap decides whether two texts name the same thing."""

import re
from collections.abc import Iterable
from functools import lru_cache

import snowballstemmer

from endcap_server.shop.text import folded_name

_WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")
LITTLE_WORDS = frozenset(
    (
        *("a", "an", "and", "at", "by", "for", "from", "in", "into", "of", "on", "or", "our", "plus", "the", "to"),
        *("with", "your"),
    )
)
_stemmer = snowballstemmer.stemmer("english")


def words(text: str) -> list[str]:
    """Case-folded words of a text; an apostrophe, a hyphen or a dot within a word does not end it."""
    return _WORD.findall(folded_name(text))


@lru_cache(maxsize=200_000)
def stem(word: str) -> str:
    """Stem of a word by the Snowball stemmer for English; digits and other scripts come back as they are."""
    return str(_stemmer.stemWord(word))


def stems(text: str) -> frozenset[str]:
    """Distinct stems of the words of a text."""
    return frozenset(stem(word) for word in words(text))


def distinct_things(texts: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Drop texts that name the same as an earlier one: the stems are equal, or one set contains the other.

    Args:
        texts: names of things, best first.
        taken: names that are used already.

    Returns:
        The other texts, in their order. After "taco", both "tacos" and "taco shells" are dropped.
    """
    kept: list[str] = []
    seen = [stems(text) for text in taken]
    for text in texts:
        parts = stems(text)
        if parts and not any(parts <= other or other <= parts for other in seen):
            kept.append(text)
            seen.append(parts)
    return kept


def specific_first(texts: Iterable[str]) -> list[str]:
    """Move general texts behind at least two specific ones: "milk" behind "oat milk" and "whole milk"."""
    listed = list(texts)
    parts = [stems(text) for text in listed]
    general = [sum(own < other for other in parts) > 1 for own in parts]
    return [
        text
        for wanted in (False, True)
        for text, is_general in zip(listed, general, strict=True)
        if is_general is wanted
    ]
