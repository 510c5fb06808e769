"""Classic placements: what the shopper buys again, what goes with it, what sells now."""

from pathlib import Path

import numpy as np
import pytest
from endcap_server.shop.kinds import Kinds
from endcap_server.shop.store import ItemStore
from endcap_server.stages.classic import classic_placements
from endcap_server.stages.documents import PlacementSource
from endcap_server.stages.sources import CandidateSource
from server.tiny_shop import build_shop

ROWS = np.array([0, 1, 8, 9, 16, 24], np.int32)
SOURCES = np.array(
    [
        *(CandidateSource.REPEAT, CandidateSource.REPEAT | CandidateSource.POPULAR),
        *(CandidateSource.TOGETHER, CandidateSource.TOGETHER | CandidateSource.POPULAR),
        *(CandidateSource.POPULAR, CandidateSource.VECTOR),
    ],
    np.uint8,
)
PROBABILITY = np.array([0.2, 0.4, 0.1, 0.3, 0.05, 0.5], np.float32)
HISTORY = np.array([0, 1, 1], np.int32)
EQUAL = np.ones(8)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Kinds:
    build: Path = build_shop(tmp_path_factory.mktemp("shop"))
    return Kinds.open(build, ItemStore.open(build))


def test_each_placement_has_its_products_the_likeliest_first(kinds: Kinds) -> None:
    found = classic_placements(ROWS, SOURCES, PROBABILITY, HISTORY, kinds, EQUAL, 12)
    assert {each.source: ROWS[each.members].tolist() for each in found} == {
        PlacementSource.BUY_AGAIN: [1, 0],
        PlacementSource.TOGETHER: [9, 8],
        PlacementSource.POPULAR: [9, 16],
    }


def test_titles_name_what_the_placement_is_about(kinds: Kinds) -> None:
    titles = {e.source: e.title for e in classic_placements(ROWS, SOURCES, PROBABILITY, HISTORY, kinds, EQUAL, 12)}
    assert titles == {
        PlacementSource.BUY_AGAIN: "Buy again: lamps",
        PlacementSource.TOGETHER: "Goes with your lamps",
        PlacementSource.POPULAR: "Popular now: rugs and tools",
    }


def test_what_everybody_buys_does_not_name_every_page(kinds: Kinds) -> None:
    popularity = np.where([name == "rugs" for name in kinds.names], 100.0, 1.0)
    found = classic_placements(ROWS, SOURCES, PROBABILITY, HISTORY, kinds, popularity, 12)
    assert {each.source: each.title for each in found}[PlacementSource.POPULAR] == "Popular now: tools and rugs"


def test_a_new_shopper_has_nothing_to_buy_again(kinds: Kinds) -> None:
    found = classic_placements(ROWS, SOURCES, PROBABILITY, HISTORY[:0], kinds, EQUAL, 12)
    assert PlacementSource.BUY_AGAIN not in {each.source for each in found}
    assert classic_placements(ROWS[:0], SOURCES[:0], PROBABILITY[:0], HISTORY, kinds, EQUAL, 12) == []
