"""Words of product texts and searches, by which builders decide whether a text mentions another."""

import re
from array import array
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from endcap_server.shop.array_files import AT_ONCE
from endcap_server.shop.columns import Array, Ragged
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
    titles: Iterable[str], descriptions: Iterable[str], *, least: int, most: int, vocabulary: int, per_product: int
) -> tuple[list[str], Ragged]:
    """Normalised attribute tokens of each product, the categorical caption features of arXiv 2605.09338.

    In the paper, captions come from a multimodal model; here, from titles and descriptions. A token is a word or a run
    of two words that occurs in ``least`` to ``most`` products. Texts are read once and not held.

    Returns:
        The vocabulary (at most ``vocabulary`` tokens, most frequent first), and for each product its positions in it,
        ascending; at most ``per_product``, those of the title first, then the more frequent ones.
    """
    numbers: dict[str, int] = {}
    found, counts = array("i"), array("i")
    for title, description in zip(titles, descriptions, strict=True):
        own = caption_candidates(title)
        for tokens in (own, caption_candidates(description) - own):
            found.extend([numbers.setdefault(token, len(numbers)) for token in tokens])
            counts.append(len(tokens))
    of_texts, lengths = np.array(found, np.int32), np.array(counts, np.int64)
    del found
    frequency = np.bincount(of_texts, minlength=len(numbers))
    names = list(numbers)
    del numbers
    usable = np.flatnonzero((frequency >= least) & (frequency <= most)).tolist()
    kept = sorted(usable, key=lambda number: (-frequency[number], names[number]))[:vocabulary]
    position = np.full(len(names), -1, np.int32)
    position[kept] = np.arange(len(kept))
    ends = np.concatenate([[0], np.cumsum(lengths)])
    parts = []
    for start in range(0, len(lengths), 2 * AT_ONCE):
        part = lengths[start : start + 2 * AT_ONCE]
        parts.append(_chosen(position[of_texts[ends[start] : ends[start + len(part)]]], part, per_product))
    return [names[number] for number in kept], Ragged.joined(parts)


def _chosen(positions: Array, lengths: Array, per_product: int) -> Ragged:
    """The caption tokens of some products, given the positions in titles and texts, -1 unknown, by turns."""
    text = np.repeat(np.arange(len(lengths)), lengths)[positions >= 0]
    positions = positions[positions >= 0]
    # Positions increase with rarity; rare tokens say little about a shopper's taste.
    order = np.lexsort((positions, text))
    product, positions = text[order] // 2, positions[order]
    kept = np.arange(len(product)) - np.searchsorted(product, product) < per_product
    product, positions = product[kept], positions[kept]
    order = np.lexsort((positions, product))
    sizes = np.bincount(product, minlength=len(lengths) // 2)
    return Ragged(positions[order].astype(np.int32), np.concatenate([[0], np.cumsum(sizes)]))


def caption_candidates(text: str) -> set[str]:
    """Stems of the words of a text, and runs of two of them, without stop words and numbers."""
    tokens = [stem(word) for word in words(text)]
    singles = {word for word in tokens if word not in _STOP and len(word) > 1 and not word.isdigit()}
    doubles = {f"{a} {b}" for a, b in pairwise(tokens) if a not in _STOP and b not in _STOP and not b.isdigit()}
    return singles | doubles
