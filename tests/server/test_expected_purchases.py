"""Expected purchases of candidates: their order, and the kinds that themes are about."""

from pathlib import Path

import numpy as np
import pytest
from endcap_server.shop.kinds import Kinds
from endcap_server.shop.store import ItemStore
from endcap_server.stages.candidates import Candidates
from endcap_server.stages.classic import usually_shown
from endcap_server.stages.expected_purchases import ExpectedPurchases, likely_kinds
from endcap_server.stages.ranking import Ranker
from endcap_server.stages.sources import CandidateSource
from endcap_server.stages.status import StatusPart
from server.test_ranking import write_ranker
from server.tiny_shop import build_shop

HISTORY = np.array([0, 1, 8, 16, 16], np.int32)
"""Lamps, a rug and tools of the tiny shop, in which each category has eight products in order."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = build_shop(tmp_path_factory.mktemp("shop"))
    write_ranker(build, ItemStore.open(build))
    return build


@pytest.fixture(scope="module")
def store(shop: Path) -> ItemStore:
    return ItemStore.open(shop)


def candidates(*rows: int, sources: int = CandidateSource.VECTOR) -> Candidates:
    count = len(rows)
    return Candidates(np.array(rows, np.int32), np.arange(count, dtype=np.float32), np.full(count, sources, np.uint8))


def test_the_most_valuable_candidates_come_first(shop: Path, store: ItemStore) -> None:
    ranker = Ranker.open(shop, store)
    status = StatusPart()
    found = candidates(40, 0, 30, 16, 50)
    ordered, worth = ExpectedPurchases(store, ranker).order(found, HISTORY, status)
    assert worth is not None
    probability = ranker.score(store, HISTORY, ordered.rows)
    expected = np.where(np.isin(ordered.rows, HISTORY), 1.0, ranker.new_factor) * probability
    np.testing.assert_allclose(worth, expected, rtol=1e-6)
    assert (np.diff(worth) <= 0).all()
    assert dict(zip(ordered.rows.tolist(), ordered.similarity.tolist(), strict=True)) == dict(
        zip(found.rows.tolist(), found.similarity.tolist(), strict=True)
    ), "what belongs to a candidate moves with it"
    assert status.reasons == []


def test_without_a_ranker_candidates_keep_their_order(store: ItemStore) -> None:
    found = candidates(40, 0, 30)
    ordered, worth = ExpectedPurchases(store, None).order(found, HISTORY, StatusPart())
    assert worth is None
    assert ordered is found


def test_a_ranker_that_fails_is_reported_and_left_out(shop: Path, store: ItemStore) -> None:
    found, status = candidates(40, len(store) + 7, 30), StatusPart()
    ordered, worth = ExpectedPurchases(store, Ranker.open(shop, store)).order(found, HISTORY, status)
    assert worth is None
    assert ordered is found
    assert "ranker: IndexError" in " ".join(status.reasons)


def test_kinds_are_worth_what_classic_placements_leave(shop: Path, store: ItemStore) -> None:
    kinds = Kinds.open(shop, store)
    found = candidates(0, 1, 8, 9, 10, 16, 17, 24, 25)
    worth = np.array([0.9, 0.8, 0.7, 0.30, 0.29, 0.28, 0.27, 0.26, 0.25], np.float32)
    # Two products a placement: the lamps are bought again. One product of a kind counts.
    assert likely_kinds(kinds, found, worth, HISTORY, 2) == (["rugs", "tools"], ["seeds"])
    # Nine: every repeat is shown by that placement, and three of a kind count.
    assert likely_kinds(kinds, found, worth, HISTORY, 9) == (["rugs", "tools"], ["seeds"])
    assert likely_kinds(kinds, found, worth, HISTORY[:0], 9) == ([], ["lamps", "rugs", "tools", "seeds"])


def test_what_is_popular_is_shown_anyway() -> None:
    rows = np.array([0, 30, 31, 32, 33], np.int32)
    popular, other = int(CandidateSource.POPULAR), int(CandidateSource.TOGETHER)
    sources = np.array([popular, popular, other, popular, popular], np.uint8)
    worth = np.array([0.9, 0.2, 0.8, 0.4, 0.3], np.float32)
    assert usually_shown(rows, sources, worth, HISTORY, 2).tolist() == [True, False, False, True, True]
