"""Merges the lists of several sources into one list of candidates."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from endcap_server.stages.sources.source import CandidateSource, Filter


@dataclass(frozen=True)
class Combined:
    """``rows`` int32 [C], distinct; ``sources`` uint8 [C], the bits of :class:`CandidateSource` that found each."""

    rows: np.ndarray
    sources: np.ndarray


def combine(
    lists: Mapping[CandidateSource, np.ndarray],
    shares: Mapping[CandidateSource, float],
    allowed: Filter,
    count: int,
) -> Combined:
    """Take products from the lists in turns, by their shares, until there are ``count``.

    When a list ends, the others get its turns.

    Args:
        lists: int [k] of each source, distinct, best first.
        shares: of the sources, not negative; a list without a share, or with share 0, is not used.
        allowed: filters rows that may be shown, in their order.
        count: most products.
    """
    kept = {source: allowed(rows) for source, rows in lists.items() if shares.get(source, 0) > 0}
    turns = [np.arange(1, len(rows) + 1) / shares[source] for source, rows in kept.items()]
    flat = np.concatenate([np.empty(0, np.int32), *kept.values()]).astype(np.int32)
    bits = np.repeat(np.array([int(source) for source in kept], np.uint8), [len(rows) for rows in kept.values()])
    order = np.argsort(np.concatenate([np.empty(0), *turns]), kind="stable")
    flat, bits = flat[order], bits[order]
    distinct, first, member = np.unique(flat, return_index=True, return_inverse=True)
    found_by = np.zeros(len(distinct), np.uint8)
    np.bitwise_or.at(found_by, member, bits)
    by_place = np.argsort(first)[:count]
    return Combined(distinct[by_place], found_by[by_place])
