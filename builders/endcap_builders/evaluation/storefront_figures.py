"""Figures of answered pages: shares with intervals, differences, sources of hits, exposures, titles, latency."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from endcap_builders.catalogue import Catalogue
from endcap_builders.evaluation.asking import ShownPage
from endcap_builders.evaluation.pages import Shopper, baseline_pages, coverage, gini, shares, title_figures
from endcap_builders.intervals import bootstrap

AGAINST = "half"
"""The baseline with which the others are compared."""


def known_figures(
    before: Catalogue, shoppers: Sequence[Shopper], answered: Mapping[str, Sequence[ShownPage]], size: int
) -> dict[str, Any]:
    """Figures of shoppers with a history.

    Args:
        before: the catalogue with the events before the cut.
        shoppers: n shoppers.
        answered: their pages, by the server's name; the first is the measured one.
        size: products of a baseline page.

    Returns:
        systems: by name, shares `all` and `new`, products, coverage, gini; minus and over: differences and ratios to
        the page `half`; sources and positions: what placements contribute; titles; stages.
    """
    lists = {name: [page.products for page in pages] for name, pages in answered.items()}
    lists |= baseline_pages(before, shoppers, size)
    found = {name: shares(pages, shoppers) for name, pages in lists.items()}
    measured = next(iter(answered))
    pages = answered[measured]
    return {
        "systems": {name: _system(lists[name], figures, before.products.height) for name, figures in found.items()},
        "minus": {AGAINST: _compared(found, found[AGAINST], difference)},
        "over": {AGAINST: _compared(found, found[AGAINST], ratio)},
        "sources": _contributions(shoppers, pages, by="source"),
        "positions": _contributions(shoppers, pages, by="position"),
        "titles": title_figures([[placement.title for placement in page.placements] for page in pages]),
        "stages": _stages(pages),
    }


def new_figures(
    before: Catalogue, shoppers: Sequence[Shopper], pages: Sequence[ShownPage], size: int
) -> dict[str, Any]:
    """Shares of the pages of shoppers without a history, and of popular products, their only baseline."""
    lists = {"page": [page.products for page in pages]}
    lists["popular"] = baseline_pages(before, shoppers, size)["popular"]
    return {
        "shoppers": len(shoppers),
        "systems": {name: {"all": mean(shares(each, shoppers)["all"])} for name, each in lists.items()},
    }


def mean(values: np.ndarray) -> dict[str, Any]:
    """Mean over the shoppers with a value, with its interval."""
    known = values[~np.isnan(values)]
    if not len(known):
        return {"shoppers": 0}
    found = bootstrap(lambda rows: known[rows].mean(axis=1), len(known), seed=0)
    return {**found.document(), "shoppers": len(known)}


def difference(values: np.ndarray, others: np.ndarray) -> dict[str, Any]:
    """Mean of `values - others`, shopper by shopper, with its interval."""
    return mean(values - others)


def ratio(values: np.ndarray, others: np.ndarray) -> dict[str, Any]:
    """Mean of `values` over the mean of `others`, of the same shoppers, with its interval; none where that is 0."""
    known = ~np.isnan(values - others)
    mine, theirs = values[known], others[known]
    if not theirs.any():
        return {"shoppers": 0}

    def statistic(rows: np.ndarray) -> np.ndarray:
        return mine[rows].mean(axis=1) / np.maximum(theirs[rows].mean(axis=1), 1e-12)

    return {**bootstrap(statistic, len(mine), seed=0).document(), "shoppers": len(mine)}


def latency(pages: Sequence[ShownPage], bases: Sequence[ShownPage] | None) -> dict[str, Any]:
    """Round trips, one request at a time: p50 and p95 in milliseconds, and their ratios to those of the base."""
    own = np.array([page.ms for page in pages])
    document: dict[str, Any] = {"page": _percentiles(own)}
    if bases is not None:
        theirs = np.array([page.ms for page in bases])
        document["base"] = _percentiles(theirs)
        for share in (50, 95):

            def statistic(rows: np.ndarray, share: int = share) -> np.ndarray:
                return np.percentile(own[rows], share, axis=1) / np.percentile(theirs[rows], share, axis=1)

            document[f"p{share}_ratio"] = bootstrap(statistic, len(own), seed=0).document()
    return document


def _percentiles(ms: np.ndarray) -> dict[str, float]:
    return {f"p{share}_ms": round(float(np.percentile(ms, share)), 1) for share in (50, 95)}


def _system(pages: Sequence[Sequence[str]], figures: Mapping[str, np.ndarray], products: int) -> dict[str, Any]:
    return {
        **{name: mean(values) for name, values in figures.items()},
        "products": round(float(np.mean([len(page) for page in pages])), 1),
        "coverage": round(coverage(pages, products), 4),
        "gini": round(gini(pages, products), 4),
    }


def _compared(found: Mapping[str, Mapping[str, np.ndarray]], other: Mapping[str, np.ndarray], compare: Any) -> Any:
    return {
        system: {name: compare(values, other[name]) for name, values in figures.items()}
        for system, figures in found.items()
        if figures is not other
    }


def _contributions(shoppers: Sequence[Shopper], pages: Sequence[ShownPage], by: str) -> dict[str, Any]:
    """Contributions of the placements of each source, or of each position.

    Returns:
        By source or position: placements; their share of all; products; hits (share of the products shown that were
        bought) and new_hits; all and new: mean share of a shopper's purchases that they show.
    """
    groups: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
    for number, page in enumerate(pages):
        for position, placement in enumerate(page.placements, 1):
            group = placement.source if by == "source" else str(position)
            groups.setdefault(group, []).append((number, placement.products))
    total = sum(map(len, groups.values()))
    return {name: _contribution(shoppers, groups[name], total) for name in sorted(groups)}


def _contribution(shoppers: Sequence[Shopper], placements: Sequence[tuple[int, tuple[str, ...]]], total: int) -> Any:
    shown: list[list[str]] = [[] for _ in shoppers]
    for number, products in placements:
        shown[number] += products
    found = shares(shown, shoppers)
    count = sum(map(len, shown))
    hits = sum(len(shopper.bought_after.intersection(each)) for shopper, each in zip(shoppers, shown, strict=True))
    new = sum(len(shopper.new_after.intersection(each)) for shopper, each in zip(shoppers, shown, strict=True))
    return {
        "placements": len(placements),
        "share": round(len(placements) / total, 4),
        "products": count,
        "hits": round(hits / max(count, 1), 4),
        "new_hits": round(new / max(count, 1), 4),
        **{name: mean(values) for name, values in found.items()},
    }


def _stages(pages: Sequence[ShownPage]) -> dict[str, dict[str, int]]:
    """Number of pages by stage and source."""
    stages: dict[str, Counter[str]] = {}
    for page in pages:
        for stage, source in page.stages.items():
            stages.setdefault(stage, Counter())[source] += 1
    return {stage: dict(counts.most_common()) for stage, counts in stages.items()}
