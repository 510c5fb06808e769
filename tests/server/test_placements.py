"""Which placements a page shows."""

import numpy as np
from endcap_server.stages.page import Pool
from endcap_server.stages.placements import Limits, Offer, choose_placements
from server.test_page import make_pool


def limits(placements: int, **changes: float) -> Limits:
    settings = {"products": 2, "least_products": 1, "max_overlap": 0.5, "max_similarity": 0.97, "order_weight": 0.02}
    return Limits(placements=placements, **{**settings, **changes})  # type: ignore[arg-type]


def choose(pools: list[Pool], placements: int, required: int = 0) -> list[int]:
    offers = [Offer(pool, pool.score, leads=index < required) for index, pool in enumerate(pools)]
    return choose_placements(offers, limits(placements)).shown


def axes(first: int, count: int = 2) -> np.ndarray:
    """Products that resemble nothing but those along the same axes: float32 [count, 8]."""
    return np.eye(8, dtype=np.float32)[first : first + count]


def offer(
    value: float, axis: int, *, classic: bool = False, leads: bool = False, stands_in: bool = False, start: int = -1
) -> Offer:
    pool = make_pool([value, value], vectors=axes(axis), start=10 * axis if start < 0 else start)
    return Offer(pool, pool.score, leads, classic, stands_in)


def test_the_most_valuable_placements_come_first() -> None:
    pools = [
        make_pool([0.2, 0.2], vectors=axes(0)),
        make_pool([0.7, 0.7], vectors=axes(2), start=10),
        make_pool([0.9, 0.9], vectors=axes(4), start=20),
    ]
    assert choose(pools, 2) == [2, 1]
    assert choose(pools, 2, required=1) == [0, 2]
    assert choose(pools, 5) == [2, 1, 0]


def test_near_duplicates_only_fill_gaps() -> None:
    one = make_pool([0.9, 0.8], vectors=axes(0))
    same_products = make_pool([0.95, 0.9], vectors=axes(4))
    alike = make_pool([0.95, 0.9], vectors=axes(0), start=70)
    other = make_pool([0.4, 0.4], vectors=axes(2), start=50)
    assert choose([one, same_products, other], 2) == [0, 2]
    assert choose([one, same_products, other], 3) == [0, 2, 1]
    assert choose([one, alike, other], 2) == [0, 2]


def test_placements_that_fit_badly_or_are_empty_come_last() -> None:
    bad, good = make_pool([0.9, 0.9], vectors=axes(0), start=9), make_pool([0.2, 0.2], vectors=axes(2))
    bad.fit[:] = False
    empty = make_pool([], vectors=axes(0, 0))
    assert choose([bad, good, empty], 1) == [1]
    assert choose([bad, good, empty], 3) == [1, 0]


def test_categories_stand_in_only_for_what_was_not_written() -> None:
    offers = [offer(0.1, 0), offer(0.9, 2, stands_in=True), offer(0.8, 4, classic=True)]
    assert choose_placements(offers, limits(2, least_generated=1, most_classic=1)).shown == [1, 0]
    assert choose_placements(offers, limits(1, least_generated=1, most_classic=1)).shown == [0]


def test_classic_placements_compete_within_their_limits() -> None:
    offers = [offer(0.1, 0), offer(0.2, 2), offer(0.9, 4, classic=True), offer(0.8, 6, classic=True)]
    assert choose_placements(offers, limits(3, most_classic=2)).shown == [2, 3, 1]
    assert choose_placements(offers, limits(3, most_classic=1)).shown == [2, 1, 0]
    assert choose_placements(offers, limits(3, most_classic=2, least_generated=2)).shown == [2, 1, 0]
    assert choose_placements(offers, limits(4, most_classic=0)).shown == [1, 0]


def test_what_leads_leads_whatever_it_is_worth() -> None:
    offers = [offer(0.1, 0, leads=True), offer(0.9, 2), offer(0.8, 4, classic=True)]
    assert choose_placements(offers, limits(2, most_classic=1)).shown == [0, 1]


def test_products_that_are_shown_already_are_worth_nothing() -> None:
    twice = offer(0.7, 2, classic=True, start=0)
    offers = [offer(0.9, 0), twice, offer(0.3, 4)]
    assert choose_placements(offers, limits(2, most_classic=2)).shown == [0, 2]


def test_a_placement_with_few_new_products_comes_after_a_full_one() -> None:
    shown = make_pool([0.9, 0.9], vectors=axes(0))
    one_is_new = make_pool([0.8, 0.8], vectors=axes(2), start=1)
    full = make_pool([0.1, 0.1], vectors=axes(4), start=20)
    offers = [
        Offer(shown, shown.score, leads=True),
        Offer(one_is_new, one_is_new.score, classic=True),
        Offer(full, full.score, classic=True),
    ]
    assert choose_placements(offers, limits(2, least_products=2, most_classic=2)).shown == [0, 2]
    assert choose_placements(offers, limits(3, least_products=2, most_classic=2)).shown == [0, 2, 1]


def test_a_page_of_nothing() -> None:
    assert choose_placements([], limits(4)).shown == []
