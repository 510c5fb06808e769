"""The served system against the naive baseline: the same requests in alternation, times and answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from endcap_client import Client, Page, ScoredProduct, SearchResult

from benchmarks.baseline import Baseline
from benchmarks.inprocess import InProcessAnswer, InProcessShelf
from benchmarks.measures import median_of, paired_ratio
from benchmarks.replay import ReplayedRequest

TOP = 10
GENERATED = ("theme", "keywords")
"""Stages that keep answers in a cache in their own process."""


@dataclass(frozen=True)
class Turn:
    """The answers to one request; `cached` is the system's answer to the repeated request, None for a search."""

    request: ReplayedRequest
    baseline: InProcessAnswer
    system: InProcessAnswer
    cached: InProcessAnswer | None


def served_answer(
    client: Client, request: ReplayedRequest, placements: int, products: int, budget_ms: int
) -> InProcessAnswer:
    """The system's answer."""
    options: dict[str, Any] = {"products": products, "budget_ms": budget_ms, "timeout_s": budget_ms / 1e3 + 5}
    if request.kind == "search":
        found: SearchResult = client.search(request.query, history=request.history, **options)
        shelf = InProcessShelf(request.query, (), *_ranking(found.products))
        return InProcessAnswer((shelf,), dict(found.status.document), found.seconds)
    page: Page = client.storefront(request.history, request.session, placements=placements, **options)
    shelves = tuple(
        InProcessShelf(each.theme, tuple(each.keywords), *_ranking(each.products)) for each in page.placements
    )
    return InProcessAnswer(shelves, dict(page.status.document), page.seconds)


def _ranking(products: Sequence[ScoredProduct]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    return tuple(each.product_id for each in products), tuple(each.score for each in products)


def take_turns(
    requests: Sequence[ReplayedRequest],
    ask: Callable[[ReplayedRequest], InProcessAnswer],
    baseline: Baseline,
    progress: Callable[[], None] = lambda: None,
) -> list[Turn]:
    """Send each request to both sides, in alternating order, so that drift of the machine affects both equally."""
    turns = []
    for number, request in enumerate(requests):
        if number % 2:
            theirs, ours = baseline.answer(request), ask(request)
        else:
            ours, theirs = ask(request), baseline.answer(request)
        again = ask(request) if request.kind == "storefront" else None
        turns.append(Turn(request, theirs, ours, again))
        progress()
    return turns


def compared(turns: Sequence[Turn], seed: int) -> dict[str, Any]:
    """Speed and agreement of the answers, by kind: `storefront_uncached`, `storefront_cached`, `search`."""
    pages = [turn for turn in turns if turn.request.kind == "storefront"]
    fresh = [turn for turn in pages if not _from_cache(turn.system)]
    again = [turn for turn in pages if turn.cached is not None and _from_cache(turn.cached)]
    searches = [turn for turn in turns if turn.request.kind == "search"]
    document: dict[str, Any] = {}
    if fresh:
        document["storefront_uncached"] = _speed([t.baseline for t in fresh], [t.system for t in fresh], seed)
    if again:
        document["storefront_cached"] = _speed(
            [t.baseline for t in again], [t.cached for t in again if t.cached is not None], seed
        )
    if searches:
        document["search"] = _speed([t.baseline for t in searches], [t.system for t in searches], seed)
    likeness = {}
    if pages:
        likeness["storefront"] = page_likeness([(turn.baseline.shelves, turn.system.shelves) for turn in pages])
    if searches:
        likeness["search"] = shelf_likeness([(t.baseline.shelves[0], t.system.shelves[0]) for t in searches])
    return {"speed": document, "answers": likeness, "uncached_dropped": len(pages) - len(fresh)}


def _from_cache(answer: InProcessAnswer) -> bool:
    return all(answer.status["stages"][stage]["source"] == "cached" for stage in GENERATED)


def _speed(baseline: Sequence[InProcessAnswer], system: Sequence[InProcessAnswer], seed: int) -> dict[str, Any]:
    theirs, ours = [1e3 * each.seconds for each in baseline], [1e3 * each.seconds for each in system]
    stages = {name: [part["ms"] for part in parts] for name, parts in _stages(system).items()}
    return {
        "requests": len(ours),
        "ratio": paired_ratio(theirs, ours, seed).document(),
        "baseline_ms": median_of(theirs, seed).document(),
        "system_ms": median_of(ours, seed).document(),
        "baseline_samples_ms": [round(value, 2) for value in theirs],
        "system_samples_ms": [round(value, 2) for value in ours],
        "baseline_stage_ms": _medians({
            name: [each.stage_ms[name] for each in baseline if name in each.stage_ms] for name in baseline[0].stage_ms
        }),
        "system_stage_ms": _medians(stages),
    }  # fmt: skip


def _stages(answers: Sequence[InProcessAnswer]) -> dict[str, list[dict[str, Any]]]:
    names = list(answers[0].status["stages"])
    return {name: [each.status["stages"][name] for each in answers if name in each.status["stages"]] for name in names}


def _medians(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(float(np.median(each)), 3) for name, each in values.items() if each}


def page_likeness(pairs: Sequence[tuple[tuple[InProcessShelf, ...], tuple[InProcessShelf, ...]]]) -> dict[str, Any]:
    """Agreement of pages: shares of equal themes and keywords, and overlap of the products.

    Themes are matched by title. The int8 student and the full-precision student usually write the same themes. Where
    they differ, placements cannot be compared product by product, but whole pages can.
    """
    equal, titles, keyword_shares, whole = 0, 0, [], []
    matched: list[tuple[InProcessShelf, InProcessShelf]] = []
    for theirs, ours in pairs:
        by_theme = {shelf.theme: shelf for shelf in ours}
        titles += len(theirs)
        for shelf in theirs:
            other = by_theme.get(shelf.theme)
            if other is None:
                continue
            equal += 1
            matched.append((shelf, other))
            together = set(shelf.keywords) | set(other.keywords)
            keyword_shares.append(len(set(shelf.keywords) & set(other.keywords)) / max(1, len(together)))
        sets = [{product for shelf in side for product in shelf.products} for side in (theirs, ours)]
        whole.append(len(sets[0] & sets[1]) / max(1, min(map(len, sets))))
    return {
        "pages": len(pairs),
        "equal_themes": _mean([equal / titles]) if titles else None,
        "equal_keywords": _mean(keyword_shares),
        "products_in_common": _mean(whole),
        "of_equal_themes": shelf_likeness(matched) if matched else None,
    }


def shelf_likeness(pairs: Sequence[tuple[InProcessShelf, InProcessShelf]]) -> dict[str, Any]:
    """Overlap of the first ten products, and rank correlation (Spearman) of the scores of common ones."""
    from scipy.stats import spearmanr

    overlaps, correlations, same_first = [], [], []
    for theirs, ours in pairs:
        first, second = theirs.products[:TOP], ours.products[:TOP]
        if not first or not second:
            continue
        overlaps.append(len(set(first) & set(second)) / max(len(first), len(second)))
        same_first.append(float(first[0] == second[0]))
        place = {product: index for index, product in enumerate(ours.products)}
        common = [(index, place[product]) for index, product in enumerate(theirs.products) if product in place]
        if len(common) > 2:
            correlations.append(float(spearmanr(*zip(*common, strict=True)).statistic))
    return {
        "rankings": len(overlaps),
        f"overlap_at_{TOP}": _mean(overlaps),
        "same_first_product": _mean(same_first),
        "rank_correlation": _mean(correlations),
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None
