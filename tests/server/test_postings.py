"""Postings: scores that were computed when the build was made."""

from pathlib import Path

import numpy as np
import pytest
from endcap_server.shop.array_files import StoreError
from endcap_server.shop.postings import Postings, PostingsMeta, logits_of, relevance_of
from endcap_server.shop.store import ItemStore
from hypothesis import given
from hypothesis import strategies as st
from tiny_shop import build_shop

ROWS = np.array([[4, 0, 7], [5, -1, -1], [-1, -1, -1]], np.int32)
LOGITS = np.array([[2, -1, 0.5], [3, np.nan, np.nan], [np.nan] * 3], np.float16)


def postings(products: int) -> Postings:
    kinds = np.arange(products, dtype=np.float16) / 10
    kinds[1] = np.nan
    return Postings(ROWS, LOGITS, kinds, PostingsMeta(temperature=0.5, slope=4, offset=-2))


@pytest.fixture
def store(tmp_path: Path) -> ItemStore:
    return ItemStore.open(build_shop(tmp_path))


def test_what_is_written_is_read(store: ItemStore, tmp_path: Path) -> None:
    postings(len(store)).write(tmp_path / "postings")
    read = Postings.open(tmp_path, store)
    assert read.known
    assert read.meta == PostingsMeta(temperature=0.5, slope=4, offset=-2)
    found = read.keyword_logits(np.array([0, 1, 2, 9, -1]), np.array([7, 4, 5, -1]))
    unknown = np.nan
    expected = [[0.5, 2, unknown, unknown], [unknown, unknown, 3, unknown], *([[unknown] * 4] * 3)]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    np.testing.assert_allclose(read.score(np.array([1]), np.array([5])), [[1 / (1 + np.exp(-3))]], rtol=1e-6)
    np.testing.assert_allclose(read.own_kind_logits(np.array([3, 1])), [0.3, np.nan], atol=1e-3)
    np.testing.assert_allclose(read.estimated_logits(np.array([[0.5], [0.75]])), [[0.0], [1.0]])


def test_a_build_without_postings_knows_no_pair(store: ItemStore, tmp_path: Path) -> None:
    found = Postings.open(tmp_path, store)
    assert not found.known
    assert np.isnan(found.score(np.array([0, 1]), np.array([0, 63]))).all()
    assert np.isnan(found.own_kind_logits(np.arange(64))).all()
    assert found.score(np.empty(0, np.int32), np.empty(0, np.int32)).shape == (0, 0)


def test_postings_of_another_store_are_refused(store: ItemStore, tmp_path: Path) -> None:
    postings(12).write(tmp_path / "postings")
    with pytest.raises(
        StoreError, match=r"expected postings of 64 products .* got 12 and 3; run endcap build postings"
    ):
        Postings.open(tmp_path, store)
    (tmp_path / "postings/postings.json").write_text('{"temperature": 0}')
    with pytest.raises(StoreError, match=r"postings\.json.*temperature"):
        Postings.open(tmp_path, store)


@given(st.lists(st.floats(-14, 14), min_size=1))
def test_relevance_and_logit(values: list[float]) -> None:
    logits = np.array(values, np.float32)
    np.testing.assert_allclose(logits_of(relevance_of(logits)), logits, atol=0.1)
    assert np.isnan(relevance_of(np.array([np.nan]))).all()
    assert np.isfinite(logits_of(np.array([0.0, 1.0]))).all()
