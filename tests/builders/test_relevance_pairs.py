"""Pairs, mining, weak labels, labelling and calibration: what training sees, before any training."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from endcap_builders.relevance.augmentation import draw_searches
from endcap_builders.relevance.calibration import FittedCalibration, calibrate
from endcap_builders.relevance.data import Labelled, draw_held_out
from endcap_builders.relevance.labelling import label_pairs
from endcap_builders.relevance.labels import UNIT, LabelScale
from endcap_builders.relevance.measure import group_figures
from endcap_builders.relevance.mining import Lexical, Shares, add_passed_over, dense_top, mine, neighbours_top
from endcap_builders.relevance.pairs import (
    RelevanceError,
    add_random_negatives,
    among,
    held_out,
    make_pairs,
    merge_pairs,
    no_pairs,
    pairs_from_frame,
    without,
)
from endcap_builders.relevance.warm_up import similarity_as_relevance
from endcap_builders.relevance.weak import weak_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

IDS = pl.Series("product_id", ["a", "b", "c", "d"])


def track(items, description, total=None):
    return items


def frame(rows):
    return pl.DataFrame(rows, schema=["query", "product_id", "relevance"], orient="row")


class Scores:
    """A teacher that scores by a function of (queries, products)."""

    model = "teacher"

    def __init__(self, function):
        self.scores = function


def by_row(queries, products):
    return products / 100 + 0.5


def unlabelled(queries=6, each=5):
    rows = np.arange(queries * each, dtype=np.int32)
    return make_pairs([f"query {row // each}" for row in rows], rows, np.full(len(rows), np.nan))


def test_pairs_are_grouped_scaled_and_averaged():
    twice = [("tea", "b", 1), ("tea ", "b", 4)]
    pairs = pairs_from_frame(
        frame([*twice, ("mug", "a", 4), ("tea", "gone", 4), (" ", "a", 1), ("mug", "c", 2.5)]),
        IDS,
        source="judgements.parquet",
        to_relevance=LabelScale().apply,
    )
    assert pairs.queries == ["mug", "tea"]
    assert pairs.product.tolist() == [0, 2, 1]
    assert pairs.target.tolist() == [1, 0.5, 0.5]
    assert pairs.offsets.tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    ("rows", "scale", "message"),
    [
        ([("tea", "a", 2), ("tea", "b", 2)], LabelScale(), "at least two different grades, got only 2"),
        ([("tea", "a", None), ("tea", "b", 2.0)], LabelScale(), "row 0: expected a number"),
        ([("tea", "a", 0.5), ("tea", "b", 7.0)], UNIT, r"row 1: expected a label in 0\.\.1.*got 7"),
        ([("tea", "a", 5.0), ("tea", "b", 2.0)], LabelScale.parse("1:0 4:1"), r"a label in 1\.\.4, .* got 5"),
    ],
)
def test_unusable_judgements_are_named(rows, scale, message):
    with pytest.raises(RelevanceError, match=message):
        pairs_from_frame(frame(rows), IDS, source="judgements.parquet", to_relevance=scale.apply)


def test_label_values_say_what_a_label_is_worth():
    scale = LabelScale.parse("3:0.9 1:0 2:0.2")
    np.testing.assert_allclose(scale.apply(np.array([1, 2, 2.5, 3.0]), "labels"), [0, 0.2, 0.55, 0.9])
    assert LabelScale.parse("") == LabelScale()
    for wrong in ("1:0", "1 2", "1:0 2:1.5", "a:0 b:1", "1:0 1:1"):
        with pytest.raises(RelevanceError, match="two or more different LABEL:RELEVANCE"):
            LabelScale.parse(wrong)


def test_merging_keeps_every_pair_once_and_known_targets():
    first = make_pairs(["x", "x"], np.array([1, 2]), np.array([1.0, np.nan]))
    second = make_pairs(["x", "y"], np.array([2, 1]), np.array([0.5, 0.0]))
    merged = merge_pairs([first, second])
    assert merged.queries == ["x", "y"]
    assert merged.product.tolist() == [1, 2, 1]
    assert merged.target.tolist() == [1.0, 0.5, 0.0]
    assert len(merge_pairs([])) == 0


def test_held_out_depends_on_the_text_alone():
    queries = [f"query {number}" for number in range(2000)]
    kept = held_out(queries, 0.1)
    assert 130 < kept.sum() < 270
    assert held_out([text.upper() for text in queries[::-1]], 0.1)[::-1].tolist() == kept.tolist()


def test_random_negatives_never_contradict_a_label():
    pairs = make_pairs(["q"] * 10, np.arange(10), np.ones(10))
    more = add_random_negatives(pairs, products=12, share=2.0, rng=np.random.default_rng(0))
    assert len(pairs) < len(more) <= 12
    assert more.target[more.product < 10].tolist() == [1] * 10
    assert set(more.target[more.product >= 10]) == {0}


def test_labelled_pairs_keep_their_order_among_random_negatives():
    pairs = make_pairs([f"query {row % 7}" for row in range(60)], np.arange(60)[::-1], np.ones(60))
    more = add_random_negatives(pairs, products=500, share=0.5, rng=np.random.default_rng(0))
    found = more.select(among(more, pairs))
    assert (found.query.tolist(), found.product.tolist()) == (pairs.query.tolist(), pairs.product.tolist())


def test_held_out_pairs_are_judged_ones_first():
    judged = unlabelled(queries=40)
    themes = make_pairs([f"theme {row // 5}" for row in range(400)], np.arange(400), np.ones(400))
    labelled = Labelled(judged, themes, human=True, held_out_share=0.5)
    kept, of_themes = labelled.part(training=False)

    def drawn(most):
        return draw_held_out(labelled, most, np.random.default_rng(0))

    assert len(drawn(20)) == 20
    assert set(drawn(20).queries) <= set(kept.queries)
    both = drawn(len(kept) + 20)
    assert len(both) == len(kept) + 20
    assert set(kept.queries) <= set(both.queries)
    assert len(drawn(10_000)) == len(kept) + len(of_themes)


def test_passed_over_only_where_people_judged_what_is_near():
    pairs = make_pairs(["deep"] * 8 + ["thin"], np.array([*range(8), 0]), np.ones(9))
    near = [np.arange(20), np.arange(20)]
    more = add_passed_over(pairs, near, share=0.5, coverage=0.5, rng=np.random.default_rng(0))
    added = more.product[(more.query == 0) & (more.target == 0)]
    assert len(added) == 4
    assert added.min() >= 8
    assert (more.query == 1).sum() == 1


@settings(max_examples=40, deadline=None)
@given(
    products=st.integers(1, 60),
    group=st.integers(1, 20),
    dense=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_mined_groups_are_distinct_and_full(products, group, dense, seed):
    rng = np.random.default_rng(seed)
    near = [rng.permutation(products)[:30] for _ in range(3)]
    lexical = [rng.permutation(products)[:size] for size in (0, 1, 25)]
    dense_count, lexical_count, neighbour_count = Shares(dense, (1 - dense) / 2, (1 - dense) / 4).counts(group)
    assert min(dense_count, lexical_count, neighbour_count) >= 0
    assert dense_count + lexical_count + neighbour_count <= group
    sources = [(near, dense_count), (lexical, lexical_count), (near[::-1], neighbour_count)]
    pairs = mine(["a", "b", "c"], sources, products, group, rng)
    assert np.isnan(pairs.target).all()
    for start, end in zip(pairs.offsets[:-1], pairs.offsets[1:], strict=True):
        rows = pairs.product[start:end]
        assert len(set(rows.tolist())) == len(rows) <= group
        assert rows.min() >= 0
        assert rows.max() < products


def test_retrievers_find_what_is_there():
    titles = ["green tea", "black tea", "coffee mug", "steel kettle"]
    top = Lexical(titles).top(["tea kettle", "zzz"], 10)
    assert set(top[0].tolist()) == {0, 1, 3}
    assert len(top[1]) == 0
    vectors = np.eye(4, dtype=np.float16)
    assert [rows[0] for rows in dense_top(vectors[[2, 0]], vectors, 3)] == [2, 0]


def test_neighbours_give_what_similar_queries_find():
    vectors = np.array([[1, 0], [0.9, np.sqrt(0.19)], [0, 1]], dtype=np.float32)
    found = [np.array([0, 1]), np.array([1, 2]), np.array([3, 4])]
    near = neighbours_top(vectors, found, neighbours=1)
    assert [rows.tolist() for rows in near] == [[2], [0], [1, 2]]


def test_shares_above_one_are_refused():
    with pytest.raises(RelevanceError, match=r"at most 1 together, got 0\.6, 0\.3, 0\.2"):
        Shares(0.6, 0.3, 0.2).counts(10)


def test_what_people_labelled_is_not_mined_again():
    known = make_pairs(["x", "y"], np.array([1, 2]), np.array([1.0, 0.0]))
    mined = make_pairs(["x", "x", "z"], np.array([1, 3, 2]), np.full(3, np.nan))
    left = without(mined, known)
    assert (left.queries, left.product.tolist()) == (["x", "z"], [3, 2])
    assert len(without(mined, no_pairs())) == 3


def test_searches_are_drawn_by_count_nested_and_never_held_out():
    log = [f"search {number}" for number in range(400)]
    store = SimpleNamespace(keywords=log, keyword_counts=np.where(np.arange(400) < 40, 10_000, 0))
    judged = make_pairs(["oak desk", "Blue  LAMP"] * 2, np.array([0, 1, 2, 3]), np.array([1.0, 0.0, 0.5, 0.5]))
    labelled = Labelled(judged, no_pairs(), human=True, held_out_share=0.2)
    drawn = draw_searches(store, labelled, 300, np.random.default_rng(1), unseen=["SEARCH  7", "blue lamp"])
    assert len(set(drawn)) == len(drawn) == 300
    assert not held_out(drawn, 0.2).any()
    assert not {"search 7", "Blue LAMP"} & set(drawn)
    assert draw_searches(store, labelled, 50, np.random.default_rng(1), ["SEARCH  7", "blue lamp"]) == drawn[:50]
    often = np.mean([int(text.split()[1]) < 40 for text in drawn[:50] if text.startswith("search")])
    assert often > 0.4


def test_similarity_becomes_relevance_between_its_extremes():
    queries = np.tile([1.0, 0.0], (101, 1))
    cosine = np.linspace(-0.2, 0.8, 101)
    relevance = similarity_as_relevance(queries, np.column_stack([cosine, np.sqrt(1 - cosine**2)]))
    assert (relevance.min(), relevance.max()) == (0, 1)
    assert relevance[50] == pytest.approx(0.5)
    assert (np.diff(relevance) >= 0).all()
    assert similarity_as_relevance(queries[:3], queries[:3]).tolist() == [0, 0, 0]


def test_weak_labels_follow_category_and_words():
    things = [("lamp", "light"), ("bulb", "light"), ("spoon", "kitchen")]
    rows = [
        (f"{colour} {thing} {number}", "Acme", f"home > {place} > {thing}s")
        for number in range(5)
        for colour in ("red", "blue")
        for thing, place in things
    ]
    products = pl.DataFrame(rows, schema=["title", "brand", "category"], orient="row")
    pairs = weak_pairs(products, queries=30, group_size=12, rng=np.random.default_rng(1))
    assert pairs.target.min() == 0
    assert pairs.target.max() == 1
    lamp = pairs.queries.index("lamps")
    for row, target in zip(pairs.product[pairs.query == lamp], pairs.target[pairs.query == lamp], strict=True):
        expected = {"lamps": 1.0, "bulbs": 0.2, "spoons": 0.0}[rows[row][2].rpartition(" > ")[2]]
        assert target == pytest.approx(expected)


def test_weak_labels_without_categories_count_words():
    products = pl.DataFrame({"title": ["oak desk", "oak chair", "paper"], "brand": [""] * 3, "category": [""] * 3})
    pairs = weak_pairs(products, queries=3, group_size=3, rng=np.random.default_rng(0))
    desk = pairs.query == pairs.queries.index("oak desk")
    labels = dict(zip(pairs.product[desk].tolist(), pairs.target[desk].tolist(), strict=True))
    assert labels == {0: 1.0, 1: 0.25, 2: 0.0}


def test_interrupted_labelling_resumes_without_loss_or_doubling(tmp_path):
    pairs, calls = unlabelled(), []

    def score(queries, products, stop_after=10**9):
        if len(calls) >= stop_after:
            raise KeyboardInterrupt
        assert queries == [f"query {row // 5}" for row in products]
        calls.append(products.tolist())
        return by_row(queries, products)

    with pytest.raises(KeyboardInterrupt):
        label_pairs(pairs, Scores(lambda *pair: score(*pair, stop_after=2)), tmp_path, track, shard_pairs=7)
    assert len(calls) == 2
    # The second file was cut off while it was being written to a disk that lost it.
    damaged = sorted((tmp_path / "labels").glob("00001-*.parquet"))[0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    labelled = label_pairs(pairs, Scores(score), tmp_path, track, shard_pairs=7)
    np.testing.assert_allclose(labelled.target, pairs.product / 100 + 0.5, rtol=1e-6)
    again = sorted(row for call in calls[2:] for row in call)
    assert again == list(range(7, 30))
    nobody = Scores(lambda queries, products: pytest.fail("labelled twice"))
    assert label_pairs(pairs, nobody, tmp_path, track, shard_pairs=7).target.all()


def test_labels_of_other_pairs_are_not_used(tmp_path):
    label_pairs(unlabelled(), Scores(lambda queries, products: np.zeros(len(products))), tmp_path, track)
    other = make_pairs([f"other {row // 5}" for row in range(30)], np.arange(30), np.full(30, np.nan))
    ones = Scores(lambda queries, products: np.ones(len(products)))
    assert label_pairs(other, ones, tmp_path, track).target.tolist() == [1] * 30


def test_known_targets_are_kept(tmp_path):
    pairs = make_pairs(["q"] * 3, np.arange(3), np.array([0.25, np.nan, 0.75]))
    labelled = label_pairs(pairs, Scores(lambda queries, products: np.full(len(products), 0.5)), tmp_path, track)
    assert labelled.target.tolist() == [0.25, 0.5, 0.75]


def test_teacher_that_returns_nan_is_refused_and_not_saved(tmp_path):
    nan = Scores(lambda queries, products: np.where(products == 3, np.nan, 0.5))
    with pytest.raises(RelevanceError, match="finite score, got NaN or infinity for query 'query 0', product row 3"):
        label_pairs(unlabelled(), nan, tmp_path, track)
    assert list(tmp_path.glob("labels/*")) == []
    with pytest.raises(RelevanceError, match="expected 30 scores"):
        label_pairs(unlabelled(), Scores(lambda queries, products: np.zeros(3)), tmp_path, track)


def test_throughput_is_told(tmp_path):
    said = []
    label_pairs(unlabelled(), Scores(by_row), tmp_path, track, say=said.append)
    assert said[-1].startswith("30 pairs labelled in ")
    assert said[-1].endswith("pairs/s")


def test_calibration_recovers_the_curves_that_made_the_data(tmp_path):
    rng = np.random.default_rng(0)
    logits = rng.normal(1.0, 2.0, 6000)
    relevance = 1 / (1 + np.exp(-(0.7 * logits - 0.4)))
    found = calibrate(logits, relevance, np.arange(0, 6001, 20))
    assert found.scale == pytest.approx(0.7, rel=0.05)
    assert found.bias == pytest.approx(-0.4, abs=0.05)
    np.testing.assert_allclose(found.relevance(logits), relevance, atol=0.02)
    found.save(tmp_path)
    assert FittedCalibration.open(tmp_path) == found


def test_temperature_matches_observed_preferences():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1.0, (4000, 2))
    wins = rng.random(4000) < 1 / (1 + np.exp(-(logits[:, 0] - logits[:, 1]) / 0.5))
    relevance = np.column_stack([wins, ~wins]).astype(float)
    found = calibrate(logits.ravel(), relevance.ravel(), np.arange(0, 8001, 2))
    assert found.temperature == pytest.approx(0.5, rel=0.1)


def test_calibration_of_separable_labels_stays_finite():
    found = calibrate(np.array([-1.0, -0.9, 1.0, 1.1]), np.array([0, 0, 1.0, 1.0]), np.array([0, 4]))
    assert np.isfinite([found.scale, found.bias, found.temperature]).all()
    assert found.temperature > 0
    assert found.relevance(np.array([1.0])) > 0.9


@pytest.mark.parametrize(
    ("logits", "relevance", "message"),
    [
        ([1.0], [1.0], "two or more held-out pairs"),
        ([1.0, np.nan], [1.0, 0.0], "finite logits"),
        ([1.0, 2.0], [1.0, 3.0], r"relevance in 0\.\.1"),
        ([1.0, 1.0], [1.0, 0.0], "the same for all pairs"),
    ],
)
def test_calibration_refuses(logits, relevance, message):
    with pytest.raises(RelevanceError, match=message):
        calibrate(np.array(logits), np.array(relevance), np.array([0, len(logits)]))


def test_group_figures():
    pairs = make_pairs(["x"] * 3 + ["y"], np.arange(4), np.array([1.0, 0.5, 0.0, 0.0]))
    assert group_figures(np.array([3.0, 2.0, 1.0, 0.0]), pairs) == {"pairs": 4, "pair_accuracy": 1.0, "ndcg": 1.0}
    assert group_figures(np.zeros(4), pairs)["pair_accuracy"] == 0.5
