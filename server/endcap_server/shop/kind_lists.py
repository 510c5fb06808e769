"""Lists of kinds of products that suit one placement each."""

from collections.abc import Sequence
from itertools import islice

from endcap_server.shop.columns import Array
from endcap_server.shop.words import distinct_things

LIST_KINDS = 3
"""Kinds of a list: a title has room for three, a placement of 12 products for four products of each."""


def kind_lists(bought: Sequence[int], new: Sequence[int], names: Sequence[str], affinity: Array) -> list[list[int]]:
    """Group kinds into lists of two or three, those that go together in one.

    Two kinds that the shopper has bought are followed by one that is new, so that most lists bring something new. The
    first kind of a list is the best one left, the others are those with the highest affinity to it. LLM 1 therefore
    reads themes that only need words, and a small student copies what stands side by side.

    Args:
        bought: positions of kinds that the shopper has bought, best first.
        new: positions of kinds that the shopper has not bought and will probably buy, best first.
        names: names of all kinds.
        affinity: float [K, K], how well two kinds suit one placement; K may be less than the number of names, the other
            kinds suit all alike.

    Returns:
        Lists of positions, the best list first. Of two kinds with names for one thing ("milk", "milks"), the first
        stays. A single kind is a list of one.
    """
    left = _distinct(_mixed(bought, new), names)
    lists = []
    while left:
        first = left.pop(0)
        mates = LIST_KINDS - 1
        if len(left) == LIST_KINDS:
            mates -= 1  # two and two rather than three and one
        near = sorted(left, key=lambda kind: -_affinity(affinity, first, kind))[:mates]
        left = [kind for kind in left if kind not in near]
        lists.append([first, *near])
    return lists


def _mixed(bought: Sequence[int], new: Sequence[int]) -> list[int]:
    mixed: list[int] = []
    of_new = iter(new)
    for start in range(0, len(bought), LIST_KINDS - 1):
        mixed += bought[start : start + LIST_KINDS - 1]
        mixed += islice(of_new, 1)
    return [*mixed, *of_new]


def _distinct(kinds: Sequence[int], names: Sequence[str]) -> list[int]:
    distinct = set(distinct_things(names[kind] for kind in kinds))
    return [kind for kind in dict.fromkeys(kinds) if names[kind] in distinct]


def _affinity(affinity: Array, one: int, two: int) -> float:
    return float(affinity[one, two]) if max(one, two) < len(affinity) else 0.0
