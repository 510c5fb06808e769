import numpy as np
import pytest
from endcap_server.shop.behaviour import NEIGHBOURS, Behaviour
from endcap_server.shop.store import ItemStore
from endcap_server.stages.sources import CandidateSource, Profile, Ranked, ShopperSources, SourceTables, combine
from endcap_server.stages.sources.favourites import favourites
from endcap_server.stages.sources.popular import popular
from endcap_server.stages.sources.repeats import repeats
from endcap_server.stages.sources.together import together, together_with_last

from tests.server.tiny_shop import build_shop

CATEGORY = np.repeat([0, 1, -1], 10).astype(np.int32)


def made(**changes) -> SourceTables:
    """30 products of two categories and none; what sells falls with the row, and 7, 17, ... do not sell."""
    sold = np.arange(30, 0, -1, dtype=np.float32)
    sold[7::10] = 0
    neighbour = np.full((30, NEIGHBOURS), -1, np.int32)
    nearness = np.zeros((30, NEIGHBOURS), np.float16)
    neighbour[0, :2], nearness[0, :2] = [11, 12], [0.5, 0.25]
    neighbour[1, :2], nearness[1, :2] = [12, 0], [0.5, 0.5]
    columns = {"recent": sold, "first": sold, "bought": sold, "shoppers": sold, "repeat": np.full(30, 0.5, np.float32)}
    columns |= {"neighbour": neighbour, "nearness": nearness, **changes}
    return SourceTables.of(Behaviour(**columns), CATEGORY, ["a > x", "a > y"])


def everything(rows: np.ndarray) -> np.ndarray:
    return rows


def test_repeats_are_by_count_recency_and_what_is_bought_again():
    assert repeats(made(), Profile.of(np.array([2, 5, 2, 8]))).rows.tolist() == [2, 8, 5]
    durable = np.full(30, 0.5, np.float32)
    durable[2] = 0.01
    assert repeats(made(repeat=durable), Profile.of(np.array([2, 5, 2, 8]))).rows.tolist() == [8, 5, 2]


def test_together_sums_neighbours_and_leaves_the_history_out():
    found = together(made(), Profile.of(np.array([0, 1])))
    assert found.rows.tolist() == [12, 11]
    assert found.of(np.array([11, 12, 0, 5])) == pytest.approx([0.5 / 2**0.5, 0.75 / 2**0.5, 0, 0], rel=0.02)


def test_the_last_items_alone_are_the_last_basket():
    history = np.array([0, *range(13, 29)])
    assert together(made(), Profile.of(history)).rows.tolist() == [11, 12]
    assert not len(together_with_last(made(), Profile.of(history)).rows)


def test_popular_products_are_new_to_the_shopper():
    assert popular(made(), Profile.of(np.array([0, 2, 2])), 3).rows.tolist() == [1, 3, 4]


@pytest.mark.parametrize("parity", [0, 1])
def test_what_sells_is_counted_after_what_may_not_be_shown(parity: int) -> None:
    def allowed(rows: np.ndarray) -> np.ndarray:
        return rows[rows % 2 == parity]

    found = popular(made(), Profile.of(np.array([0, 2, 2])), 8, allowed).rows
    assert len(found) == 8
    assert len(allowed(found)) == 8
    assert not {0, 2} & set(found.tolist())
    assert set((favourites(made(), Profile.of(np.array([10])), allowed).rows % 2).tolist()) == {parity}


def test_favourites_sell_in_the_shopper_s_categories():
    found = favourites(made(), Profile.of(np.array([10, 11, 11, 0, 25])))
    assert set(CATEGORY[found.rows].tolist()) == {0, 1}
    assert found.rows[0] == 12
    assert not {0, 10, 11, 7, 17} & set(found.rows.tolist())


@pytest.mark.parametrize("source", [repeats, together, together_with_last, favourites])
@pytest.mark.parametrize("tables", [made(), SourceTables.of(Behaviour.empty(30), CATEGORY, ["a > x", "a > y"])])
def test_a_new_shopper_and_a_shop_without_events(source, tables):
    assert not len(source(tables, Profile.of(np.empty(0, np.int32))).rows)
    empty = SourceTables.of(Behaviour.empty(30), np.full(30, -1, np.int32), [])
    assert not len(source(empty, Profile.of(np.array([1, 2]))).rows)
    assert not len(popular(empty, Profile.of(np.array([1, 2])), 5).rows)


def test_turns_follow_the_shares_and_every_source_that_found_a_product_is_told():
    lists = {
        CandidateSource.REPEAT: np.arange(0, 10),
        CandidateSource.POPULAR: np.array([20, 1, 21, 22]),
        CandidateSource.VECTOR: np.array([23]),
    }
    found = combine(lists, {CandidateSource.REPEAT: 2, CandidateSource.POPULAR: 1}, everything, 6)
    assert found.rows.tolist() == [0, 1, 20, 2, 3, 4]
    assert found.sources[1] == CandidateSource.REPEAT | CandidateSource.POPULAR
    assert found.sources[0] == CandidateSource.REPEAT
    assert found.sources.dtype == np.uint8


def test_a_list_that_ends_leaves_its_turns_to_others_and_filters_come_first():
    lists = {CandidateSource.REPEAT: np.array([1]), CandidateSource.POPULAR: np.arange(10, 30)}
    found = combine(lists, {CandidateSource.REPEAT: 9, CandidateSource.POPULAR: 1}, lambda rows: rows[rows % 2 == 1], 5)
    assert found.rows.tolist() == [1, 11, 13, 15, 17]
    assert combine({}, {}, everything, 5).rows.tolist() == []


def test_found_products_score_by_row():
    found = Ranked.best(np.array([5, 3, 9]), np.array([0.1, 0.7, 0.0]))
    assert found.rows.tolist() == [3, 5]
    assert found.of(np.array([9, 5, 3, 100])) == pytest.approx([0, 0.1, 0.7, 0])


def test_one_product_200_times_does_not_fill_the_candidates(tmp_path):
    store = ItemStore.open(build_shop(tmp_path))
    sold = np.linspace(9, 1, len(store)).astype(np.float32)
    neighbour = np.full((len(store), NEIGHBOURS), -1, np.int32)
    behaviour = Behaviour(sold, sold, sold, sold, sold / 9, neighbour, np.zeros(neighbour.shape, np.float16))
    shares = {
        CandidateSource.REPEAT: 0.3,
        CandidateSource.TOGETHER: 0.2,
        CandidateSource.POPULAR: 0.2,
        CandidateSource.CATEGORY: 0.3,
    }
    found = ShopperSources(store, behaviour).find(np.full(200, 9), {}, shares, everything, 20)
    assert len(found.rows) == len(set(found.rows.tolist())) == 20
    assert found.rows[0] == 9
    assert found.sources[0] == CandidateSource.REPEAT
