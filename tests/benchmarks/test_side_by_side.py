"""How alike two sides' answers are, and how much faster one is."""

from typing import Any

import pytest

from benchmarks.inprocess import InProcessAnswer, InProcessShelf
from benchmarks.replay import ReplayedRequest
from benchmarks.side_by_side import Turn, compared, page_likeness, shelf_likeness


def shelf(theme: str, products: str, keywords: str = "a b") -> InProcessShelf:
    ids = tuple(products.split())
    return InProcessShelf(theme, tuple(keywords.split()), ids, tuple(1.0 / (place + 1) for place in range(len(ids))))


def test_equal_rankings() -> None:
    found = shelf_likeness([(shelf("x", "1 2 3 4"), shelf("x", "1 2 3 4"))])
    assert found == {"rankings": 1, "overlap_at_10": 1.0, "same_first_product": 1.0, "rank_correlation": 1.0}


def test_turned_and_different_rankings() -> None:
    found = shelf_likeness([(shelf("x", "1 2 3 4"), shelf("x", "4 3 2 1"))])
    assert (found["overlap_at_10"], found["rank_correlation"], found["same_first_product"]) == (1.0, -1.0, 0.0)
    found = shelf_likeness([(shelf("x", "1 2 3 4"), shelf("x", "1 2 8 9"))])
    assert (found["overlap_at_10"], found["rank_correlation"]) == (0.5, None), "two products have no correlation"
    assert shelf_likeness([(shelf("x", ""), shelf("x", "1"))])["rankings"] == 0


def test_placements_are_matched_by_theme() -> None:
    theirs = (shelf("tea", "1 2 3", "a b"), shelf("bread", "4 5 6", "c"))
    ours = (shelf("cheese", "4 5 7", "d"), shelf("tea", "1 2 3", "a c"))
    found = page_likeness([(theirs, ours)])
    assert found["equal_themes"] == 0.5
    assert found["equal_keywords"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["products_in_common"] == pytest.approx(5 / 6, abs=1e-4)
    assert found["of_equal_themes"]["rankings"] == 1
    nothing = page_likeness([(theirs, (shelf("cheese", "9"),))])
    assert (nothing["equal_themes"], nothing["equal_keywords"], nothing["of_equal_themes"]) == (0.0, None, None)


def answer(seconds: float, source: str = "generated") -> InProcessAnswer:
    stages: dict[str, Any] = {name: {"source": source, "ms": 1e3 * seconds / 2} for name in ("theme", "keywords")}
    return InProcessAnswer((shelf("tea", "1 2 3"),), {"stages": stages}, seconds, {"theme": 1.0, "keywords": 2.0})


def test_answers_from_a_cache_do_not_count_as_uncached() -> None:
    visit = ReplayedRequest("storefront")
    turns = [Turn(visit, answer(3.0), answer(1.0), answer(0.1, "cached")) for _ in range(5)]
    turns.append(Turn(visit, answer(3.0), answer(0.1, "cached"), answer(0.1, "cached")))
    turns.append(Turn(ReplayedRequest("search", query="tea"), answer(0.6), answer(0.2), None))
    found = compared(turns, seed=1)
    assert found["uncached_dropped"] == 1
    ratios = {name: (row["requests"], row["ratio"]["value"]) for name, row in found["speed"].items()}
    assert ratios == {
        "storefront_uncached": (5, pytest.approx(3)),
        "storefront_cached": (6, pytest.approx(30)),
        "search": (1, pytest.approx(3)),
    }
    assert found["answers"]["search"]["overlap_at_10"] == 1.0
    assert found["speed"]["storefront_uncached"]["baseline_stage_ms"] == {"theme": 1.0, "keywords": 2.0}
