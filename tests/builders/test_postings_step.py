"""The step `postings`: which pairs it scores, what it carries over, and what an interruption loses."""

from pathlib import Path

import numpy as np
import pytest
from endcap_builders.relevance.postings import ServedCrossEncoder
from endcap_builders.reuse import FOLDER as REUSE
from endcap_server.engines.cross_encoder import CrossEncoder, CrossEncoderRequest
from endcap_server.shop.kinds import Kinds
from endcap_server.shop.postings import FILES
from posted_shop import KEYWORDS, PRODUCTS_OF_A_KEYWORD, TITLES, PostedShop

ALL_PAIRS = len(TITLES) + PRODUCTS_OF_A_KEYWORD * len(KEYWORDS)


@pytest.fixture
def shop(tiny_cross_encoder: Path, tmp_path: Path) -> PostedShop:
    return PostedShop(tmp_path, tiny_cross_encoder)


def test_every_keyword_and_kind_has_the_scores_of_the_engine(shop: PostedShop) -> None:
    assert shop.run() == {"keywords": len(KEYWORDS), "pairs": ALL_PAIRS, "computed": ALL_PAIRS}
    engine = CrossEncoder(shop.build / "cross_encoder", shop.store)
    every = np.arange(len(TITLES), dtype=np.int32)
    (keywords,) = engine.run([CrossEncoderRequest(KEYWORDS, np.tile(every, (len(KEYWORDS), 1)))])
    postings, store = shop.postings, shop.store
    found = postings.score(np.arange(len(KEYWORDS)), every)
    listed = np.array([np.isin(every, rows) for rows in store.keyword_products])
    np.testing.assert_allclose(found[listed], keywords.scores[listed], atol=2e-3)
    assert np.isnan(found[~listed]).all()
    names = Kinds.open(shop.build, store).labels(every)
    assert set(names) == {"lamp", "rug", "mug"}
    (kinds,) = engine.run([CrossEncoderRequest(names, every[:, None])])
    logits = 2.0 * kinds.logits[:, 0] - 0.5
    np.testing.assert_allclose(postings.own_kind_logits(every), logits, atol=5e-3)
    assert postings.meta.temperature == pytest.approx(2.0 * 0.3)
    assert {path for path in FILES if (shop.build / path).exists()} == set(FILES)


def test_estimates_are_fitted_to_pairs_without_a_posting(shop: PostedShop) -> None:
    shop.run()
    engine = CrossEncoder(shop.build / "cross_encoder", shop.store)
    every = np.arange(len(TITLES), dtype=np.int32)
    (result,) = engine.run([CrossEncoderRequest(KEYWORDS, np.tile(every, (len(KEYWORDS), 1)))])
    postings, store = shop.postings, shop.store
    cosine = store.keyword_vectors.astype(np.float32) @ store.vectors.astype(np.float32).T
    unlisted = (cosine >= 0.3) & ~np.array([np.isin(every, rows) for rows in store.keyword_products])
    assert unlisted.sum() > 5
    line = np.polyfit(cosine[unlisted], 2.0 * result.logits[unlisted] - 0.5, 1)
    np.testing.assert_allclose((postings.meta.slope, postings.meta.offset), line, rtol=0.02, atol=0.02)


def test_fewer_pairs(shop: PostedShop) -> None:
    """The most popular products of each kind, then the best products of the most searched keywords."""
    shop.settings = {"products": 3, "kind_products": 1, "most_pairs": 10, "estimate_pairs": 0}
    assert shop.run() == {"keywords": 2, "pairs": 9, "computed": 9}
    postings, store = shop.postings, shop.store
    assert [TITLES[row] for row in np.flatnonzero(~np.isnan(postings.kind_logits))] == [
        "brass lamp", "brass rug", "brass mug"
    ]  # fmt: skip
    np.testing.assert_array_equal(postings.rows, store.keyword_products[:2, :3])
    shop.settings = {"most_pairs": 0}
    assert shop.run()["pairs"] == 0
    assert np.isnan(shop.postings.score(np.arange(4), np.arange(12))).all()


def test_equal_pairs_are_carried_over(shop: PostedShop) -> None:
    shop.run()
    assert shop.run(force=True)["computed"] == ALL_PAIRS, "a forced step computes everything"
    before = shop.postings
    # A product less in front, one more at the end, one with another title; a keyword less and one more.
    shop.titles = ("wool lamp", *TITLES[2:], "tea lamp")
    shop.keywords = ("wool rug", "oak table", "desk lamp", "garden hose")
    figures = shop.run()
    assert 0 < figures["computed"] < figures["pairs"] / 2
    carried = shop.postings
    known = [KEYWORDS.index(text) for text in ("wool rug", "desk lamp")]
    same = before.score(np.array(known), np.arange(2, 12)), carried.score(np.array([0, 2]), np.arange(1, 11))
    both = ~np.isnan(same[0]) & ~np.isnan(same[1])
    assert both.any()
    np.testing.assert_array_equal(same[0][both], same[1][both])
    assert shop.run()["computed"] == figures["computed"], "nothing has changed: the step did not run"
    shop.run(force=True)
    for name in ("rows", "logits", "kind_logits"):
        np.testing.assert_allclose(getattr(shop.postings, name), getattr(carried, name), atol=5e-3)


@pytest.mark.parametrize("change", ["calibration", "damaged"])
def test_scores_of_another_model_and_damaged_ones_are_not_carried_over(shop: PostedShop, change: str) -> None:
    shop.run()
    if change == "calibration":
        shop.bias = 0.25
    else:
        shop.keywords = KEYWORDS[:3]
        path = shop.build / "postings" / REUSE / "products.npy"
        path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    figures = shop.run()
    assert figures["computed"] == figures["pairs"]


def test_an_interrupted_step_goes_on(shop: PostedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.settings = {**shop.settings, "estimate_pairs": 0}
    score, asked = ServedCrossEncoder.scores, []

    def until(self: ServedCrossEncoder, queries: list[str], products: np.ndarray) -> np.ndarray:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(len(queries))
        return score(self, queries, products)

    with monkeypatch.context() as patch:
        patch.setattr(ServedCrossEncoder, "scores", until)
        with pytest.raises(KeyboardInterrupt):
            shop.run()
        assert not (shop.build / "postings").exists()
        asked.append(0)
        assert shop.run()["computed"] == ALL_PAIRS
    assert sum(asked) == ALL_PAIRS, "nothing is scored twice"


def test_a_cross_encoder_that_is_not_installed_has_no_postings(shop: PostedShop) -> None:
    shop.run()
    shop.installed = False
    assert shop.run() == {"pairs": 0, "computed": 0}
    assert not shop.postings.known
    assert list((shop.build / "postings").iterdir()) == []
