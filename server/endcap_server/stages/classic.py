"""Classic placements: placements without a language model, from the shopper's candidates (P2).

They show what the shopper buys again, what goes with it, and what sells now.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from endcap_server.shop.kinds import Kinds
from endcap_server.shop.prompts import TITLE_CHARACTERS
from endcap_server.stages.documents import PlacementSource
from endcap_server.stages.sources import CandidateSource

_NAMED_KINDS = {PlacementSource.BUY_AGAIN: 2, PlacementSource.TOGETHER: 2, PlacementSource.POPULAR: 3}
"""Kinds in a title. What is popular is much the same for all shoppers: three kinds tell more pages apart than two."""

_TITLES = {
    PlacementSource.BUY_AGAIN: ("Buy again", "Buy again: {}"),
    PlacementSource.TOGETHER: ("Goes with what you buy", "Goes with your {}"),
    PlacementSource.POPULAR: ("Popular now", "Popular now: {}"),
}
"""Titles without a kind, and with some."""


@dataclass(frozen=True)
class ClassicPlacement:
    """A classic placement before it is filled: ``members`` int64 [m], positions among the candidates, best first."""

    source: PlacementSource
    title: str
    members: np.ndarray


def classic_placements(
    rows: np.ndarray,
    sources: np.ndarray,
    probability: np.ndarray,
    history: np.ndarray,
    kinds: Kinds,
    kind_popularity: np.ndarray,
    products: int,
) -> list[ClassicPlacement]:
    """Make the classic placements of a shopper; one without a candidate is left out.

    Args:
        rows: int32 [C], candidate products.
        sources: uint8 [C], bits of :class:`CandidateSource` that found each.
        probability: float [C], probability of a purchase; orders the placement.
        history: int32 [H], the shopper's products, oldest first.
        kinds: Names of kinds, for the titles.
        kind_popularity: float [kinds] > 0. The title of the popular placement weighs kinds relative to their
            popularity, because otherwise every page would name the same kinds.
        products: Products of a placement; its title names their kinds.
    """
    placements = []
    for source, members in _members(rows, sources, probability, history).items():
        if not len(members):
            continue
        named = history if source is PlacementSource.TOGETHER else rows[members[:products]]
        weights = np.ones(len(named)) if source is PlacementSource.TOGETHER else probability[members[:products]]
        if source is PlacementSource.POPULAR and len(kind_popularity):
            weights = weights / kind_popularity[kinds.of_product[named]]
        placements.append(ClassicPlacement(source, _title(source, kinds, named, weights), members))
    return placements


def usually_shown(
    rows: np.ndarray, sources: np.ndarray, probability: np.ndarray, history: np.ndarray, products: int
) -> np.ndarray:
    """Which candidates most pages show in classic placements of ``products``, whatever their themes: bool [C].

    These are the first products of buy again and of popular now; for the arguments see :func:`classic_placements`.
    """
    shown = np.zeros(len(rows), np.bool_)
    found = _members(rows, sources, probability, history)
    for source in (PlacementSource.BUY_AGAIN, PlacementSource.POPULAR):
        shown[found[source][:products]] = True
    return shown


def _members(
    rows: np.ndarray, sources: np.ndarray, probability: np.ndarray, history: np.ndarray
) -> dict[PlacementSource, np.ndarray]:
    """Positions of the candidates of each classic placement, the most probable first: int64 [m]."""
    bought = np.isin(rows, history)
    chosen = {
        PlacementSource.BUY_AGAIN: bought,
        PlacementSource.TOGETHER: ~bought & (sources & (CandidateSource.TOGETHER | CandidateSource.CATEGORY) > 0),
        PlacementSource.POPULAR: ~bought & (sources & CandidateSource.POPULAR > 0),
    }
    order = np.argsort(-probability, kind="stable")
    return {source: order[which[order]] for source, which in chosen.items()}


def _title(source: PlacementSource, kinds: Kinds, rows: np.ndarray, weights: Sequence[float] | np.ndarray) -> str:
    """Name the placement by the kinds with the largest weight, so that different pages have different titles."""
    total: dict[str, float] = {}
    for label, weight in zip(kinds.labels(rows), weights, strict=True):
        if label:
            total[label] = total.get(label, 0.0) + float(weight)
    best = sorted(total, key=lambda label: (-total[label], label))[: _NAMED_KINDS[source]]
    bare, pattern = _TITLES[source]
    for count in range(len(best), 0, -1):
        title = pattern.format(_listed(best[:count]))
        if len(title) <= TITLE_CHARACTERS:
            return title
    return bare


def _listed(names: Sequence[str]) -> str:
    """Names in a row: "milk", "milk and eggs", "milk, eggs and bread"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
