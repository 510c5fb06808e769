"""Words of product texts and searches, by which builders decide whether a text mentions another."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from endcap_server.shop.words import stem, words

_PART = re.compile(r"[,;:()\[\]|/+\"]|\s[-–—]\s|\b(?:with|for|in|by|from|and|mit|für|avec|pour|con|para)\b|(?=\b\d)")
_STOP_WORDS = """
about after before first many off only out over under every just own
a an and are as at be by for from has have in into is it its made of on or our so than that the their them then these
they this to up use very was we when which while will with you your not no can all any more most each der die das und
mit für von le la les de des et pour avec el los con para y
"""
_STOP = frozenset(_STOP_WORDS.split())


def content_stems(text: str) -> list[str]:
    """Stems of the words of a text, without stop words."""
    return [stem(word) for word in words(text) if word not in _STOP]


def phrases(text: str, longest: int) -> list[tuple[str, bool]]:
    """Runs of 1..``longest`` words of one part of a text, and whether the run ends its part.

    Parts end at punctuation, at words such as "with" or "for", and before numbers. A run does not begin or end with a
    stop word or a number. The product's noun usually ends a part: "Cast Iron Skillet" in "Cast Iron Skillet with Lid,
    24 cm".
    """
    found = []
    for part in _PART.split(text.lower()):
        tokens = words(part)
        for start, first in enumerate(tokens):
            for end in range(start + 1, min(start + longest, len(tokens)) + 1):
                last = tokens[end - 1]
                if not {first, last} & _STOP and last[0].isalpha() and first[0].isalpha() and len(last) > 1:
                    found.append((" ".join(tokens[start:end]), end == len(tokens)))
    return found


def caption_tokens(
    titles: Sequence[str], descriptions: Sequence[str], *, least: int, most: int, vocabulary: int, per_product: int
) -> tuple[list[str], list[list[int]]]:
    """Normalised attribute tokens of each product, the categorical caption features of arXiv 2605.09338.

    In the paper, captions come from a multimodal model; here, from titles and descriptions. A token is a word or a run
    of two words that occurs in ``least`` to ``most`` products.

    Returns:
        The vocabulary (at most ``vocabulary`` tokens, most frequent first), and for each product its positions in it,
        ascending; at most ``per_product``, those of the title first, then the more frequent ones.
    """
    of_titles = [_caption_candidates(title) for title in titles]
    of_texts = [_caption_candidates(text) - own for text, own in zip(descriptions, of_titles, strict=True)]
    frequency: Counter[str] = Counter()
    for own, more in zip(of_titles, of_texts, strict=True):
        frequency.update(own)
        frequency.update(more)
    kept = sorted((t for t, n in frequency.items() if least <= n <= most), key=lambda t: (-frequency[t], t))[
        :vocabulary
    ]
    position = {token: number for number, token in enumerate(kept)}
    lists = []
    for own, more in zip(of_titles, of_texts, strict=True):
        # Positions increase with rarity; rare tokens say little about a shopper's taste.
        chosen = _positions(own, position) + _positions(more, position)
        lists.append(sorted(chosen[:per_product]))
    return kept, lists


def _positions(tokens: Iterable[str], position: dict[str, int]) -> list[int]:
    return sorted(position[token] for token in tokens if token in position)


def _caption_candidates(text: str) -> set[str]:
    tokens = [stem(word) for word in words(text)]
    singles = {word for word in tokens if word not in _STOP and len(word) > 1 and not word.isdigit()}
    doubles = {f"{a} {b}" for a, b in pairwise(tokens) if a not in _STOP and b not in _STOP and not b.isdigit()}
    return singles | doubles
