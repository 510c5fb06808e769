import json
from dataclasses import replace
from pathlib import Path

import lightgbm
import numpy as np
import pytest
from endcap_server.shop.behaviour import NEIGHBOURS, Behaviour
from endcap_server.shop.store import ItemStore, Ragged
from endcap_server.stages.ranking import FEATURES, META_FILE, MODEL_FILE, FeatureTables, Ranker, RankerError, calibrated
from endcap_server.stages.sources import HISTORY_ITEMS
from tiny_store import write_tiny_keywords, write_tiny_products

CATEGORIES = ["garden > tools", "garden > plants", "kitchen"]


def make_store(build: Path, products: int = 40, seed: int = 3) -> ItemStore:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((products, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    price = rng.uniform(1, 90, products).astype(np.float32)
    price[5] = np.nan
    category = np.arange(products) % 3
    brand = np.arange(products) % 4
    category[6] = brand[6] = -1
    captions = [sorted(rng.choice(12, rng.integers(1, 5), replace=False).tolist()) for _ in range(products)]
    captions[7] = []
    write_tiny_products(
        build,
        vectors,
        brand=brand,
        brands=["a", "b", "c", "d"],
        category=category,
        categories=CATEGORIES,
        price=price,
        popularity=rng.random(products),
        captions=Ragged.of(captions),
        caption_tokens=[f"t{token}" for token in range(12)],
    )
    write_tiny_keywords(build, ["k"], vectors[:1])
    return ItemStore.open(build)


def behaviour(products: int = 40) -> Behaviour:
    """What sells falls with the row; every product's only neighbours are the two after it."""
    neighbour = np.full((products, NEIGHBOURS), -1, np.int32)
    neighbour[:, 0] = (np.arange(products) + 1) % products
    neighbour[:, 1] = (np.arange(products) + 2) % products
    nearness = np.zeros((products, NEIGHBOURS), np.float16)
    nearness[:, 0], nearness[:, 1] = 0.5, 0.25
    sold = np.arange(products, 0, -1, dtype=np.float32)
    repeat = np.linspace(0.1, 0.5, products).astype(np.float32)
    return Behaviour(sold, sold, sold, sold, repeat, neighbour, nearness)


def tables_of(store: ItemStore) -> FeatureTables:
    return FeatureTables.of(store, behaviour(len(store)))


def write_ranker(build: Path, store: ItemStore, **changes) -> None:
    """A small real model: what was bought before is bought again."""
    rng = np.random.default_rng(0)
    tables = tables_of(store)
    features = np.concatenate([tables.features(rng.integers(len(store), size=9), np.arange(40)) for _ in range(30)])
    label = (features[:, FEATURES.index("seen_count")] > 0).astype(int)
    data = lightgbm.Dataset(features, label, group=[40] * 30, feature_name=list(FEATURES))
    parameters = {"objective": "lambdarank", "min_data_in_leaf": 5, "verbosity": -1, "num_threads": 1}
    folder = build / "ranker"
    folder.mkdir()
    behaviour(len(store)).write(build / "behaviour")
    lightgbm.train(parameters, data, num_boost_round=10).save_model(folder / MODEL_FILE)
    meta = {
        "kind": "lightgbm",
        "features": list(FEATURES),
        "scale": 1.0,
        "shift": 0.0,
        "prior": 0.1,
        "new_factor": 2.0,
        **changes,
    }
    (folder / META_FILE).write_text(json.dumps(meta), encoding="utf-8")


@pytest.fixture
def store(tmp_path) -> ItemStore:
    return make_store(tmp_path)


def column(table: np.ndarray, name: str) -> np.ndarray:
    return table[:, FEATURES.index(name)]


def test_features_are_what_their_names_say(store):
    history, rows = np.array([3, 0, 9, 3, 12]), np.arange(40)
    table = tables_of(store).features(history, rows)
    assert table.shape == (40, len(FEATURES))
    assert table.dtype == np.float32
    weights = 0.5 ** (np.arange(4, -1, -1) / 60)

    def share(values, row):
        return weights[values[history] == values[row]].sum() / weights.sum()

    parent = np.array([0, 0, 1])[store.category]  # garden, garden, kitchen
    taste = weights @ store.vectors[history].astype(np.float64)
    for row in (0, 1, 3, 12, 20):
        assert column(table, "category_share")[row] == pytest.approx(share(store.category, row), rel=1e-5)
        assert column(table, "parent_share")[row] == pytest.approx(share(parent, row), rel=1e-5)
        assert column(table, "brand_share")[row] == pytest.approx(share(store.brand, row), rel=1e-5)
        vector = store.vectors[row].astype(np.float64)
        assert column(table, "history_cosine")[row] == pytest.approx(taste @ vector / np.linalg.norm(taste), abs=2e-3)
        closest = (store.vectors[history].astype(np.float64) @ vector).max()
        assert column(table, "recent_cosine")[row] == pytest.approx(closest, abs=2e-3)
        ratio = np.log1p(store.price[row]) - np.median(np.log1p(store.price[history]))
        assert column(table, "price_ratio")[row] == pytest.approx(ratio, rel=1e-4)
    assert column(table, "seen_count")[[0, 3, 4]] == pytest.approx(np.log1p([1, 2, 0]))
    np.testing.assert_allclose(column(table, "seen_recency")[[3, 12, 0, 4]], [np.log1p(1), 0, np.log1p(3), np.nan])
    assert column(table, "history_length") == pytest.approx(np.full(40, np.log1p(5)))


def test_caption_features_against_plain_dictionaries(store):
    history, rows = np.array([3, 0, 9, 3, 12]), np.arange(40)
    table = tables_of(store).features(history, rows)
    lists = [store.captions.row(row).tolist() for row in rows]
    frequency = {token: sum(token in tokens for tokens in lists) for token in range(12)}
    idf = {token: np.log(41 / (count + 1)) for token, count in frequency.items()}
    profile = dict.fromkeys(range(12), 0.0)
    for position, row in enumerate(history):
        for token in lists[row]:
            profile[token] += 0.5 ** ((4 - position) / 60) * idf[token]
    length = np.sqrt(sum(value**2 for value in profile.values()))
    for row in (0, 1, 8, 30):
        norm = np.sqrt(sum(idf[token] ** 2 for token in lists[row]))
        cosine = sum(idf[token] * profile[token] for token in lists[row]) / norm / length
        assert column(table, "caption_cosine")[row] == pytest.approx(cosine, rel=1e-4)
        assert column(table, "caption_matches")[row] == sum(profile[token] > 0 for token in lists[row])
        assert column(table, "caption_best")[row] == pytest.approx(
            max(profile[token] for token in lists[row]) / length, rel=1e-4
        )
    assert np.isnan(table[7, -3:]).all()  # a product without captions


def test_what_is_unknown_is_nan(store):
    table = tables_of(store).features([0, 1, 2], [5, 6])
    assert np.isnan(column(table, "price")[0])
    assert np.isnan(column(table, "price_ratio")[0])
    assert np.isnan(column(table, "category_share")[1])
    assert np.isnan(column(table, "parent_share")[1])
    assert np.isnan(column(table, "brand_share")[1])
    only_unpriced = tables_of(store).features([5], [0])
    assert np.isnan(column(only_unpriced, "price_ratio")).all()


def test_a_new_shopper_has_no_history_features(store):
    table = tables_of(store).features(np.zeros(0, np.int32), np.arange(40))
    known = [*range(FEATURES.index("price")), FEATURES.index("history_length")]
    assert not np.isnan(table[:, known]).any()
    assert (column(table, "history_length") == 0).all()
    assert np.isnan(np.delete(table, [*known, FEATURES.index("price")], axis=1)).all()


def test_a_row_alone_equals_the_row_among_others(store):
    tables = tables_of(store)
    together = tables.features([1, 2, 3], np.arange(40))
    for row in (0, 6, 7, 39):
        np.testing.assert_allclose(tables.features([1, 2, 3], [row])[0], together[row], rtol=1e-5, atol=1e-6)


def test_no_candidates(store):
    assert tables_of(store).features([1], []).shape == (0, len(FEATURES))


def test_only_the_last_items_of_a_long_history_count(store):
    tables = tables_of(store)
    recent = np.arange(HISTORY_ITEMS) % 30
    long = np.concatenate([np.full(500, 39), recent])
    np.testing.assert_array_equal(tables.features(long, np.arange(40)), tables.features(recent, np.arange(40)))


def test_popularity_in_category_is_the_share_of_those_that_sell_less(store):
    recent = np.zeros(40, np.float32)
    recent[[0, 3, 9]] = 9, 9, 4
    table = FeatureTables.of(store, replace(behaviour(), recent=recent)).features([], np.arange(40))
    peers = int((store.category == store.category[0]).sum())
    found = column(table, "popularity_in_category")
    assert found[[0, 3]] == pytest.approx([(peers - 2) / (peers - 1)] * 2)
    assert found[9] == pytest.approx((peers - 3) / (peers - 1))
    assert found[12] == 0


def test_features_of_behaviour_against_plain_counting(store):
    history, rows = np.array([3, 0, 9, 3, 12, 3]), np.arange(40)
    table = tables_of(store).features(history, rows)
    sold = np.arange(40, 0, -1)
    assert column(table, "recent") == pytest.approx(np.log(sold / sold.sum() + 1e-6), rel=1e-4)
    assert column(table, "shoppers") == pytest.approx(np.log1p(sold))
    mates = store.category == store.category[3]
    assert column(table, "share_in_category")[3] == pytest.approx(sold[3] / sold[mates].sum(), rel=1e-5)
    # 3 was taken at positions 0, 3 and 5 of 6: every 2.5 items, and the last is the newest.
    assert column(table, "interval")[3] == pytest.approx(np.log1p(2.5))
    assert column(table, "due")[3] == pytest.approx(1 / 2.5)
    assert column(table, "rate")[3] == pytest.approx(3 / 6)
    assert column(table, "habit") == pytest.approx(np.full(40, 1 / 4))
    assert column(table, "repeat_rank")[[3, 0]] == pytest.approx([0, 3])
    assert np.isnan(column(table, "repeat_rank")[1])
    # 10 is a neighbour of 9; 13 and 14 of 12; what is in the history has no score.
    assert column(table, "together_last")[[10, 13, 14, 12]] == pytest.approx([0.25, 0.25, 0.125, 0], abs=1e-3)


def test_scores_are_probabilities_in_the_model_s_order(tmp_path, store):
    write_ranker(tmp_path, store)
    ranker = Ranker.open(tmp_path, store)
    assert ranker.available
    scores = ranker.score(store, [4, 8, 15], np.arange(40, dtype=np.int32))
    assert scores.dtype == np.float32
    assert ((scores > 0) & (scores < 1)).all()
    assert set(np.argsort(-scores)[:3]) == {4, 8, 15}
    assert ranker.new_factor == 2
    assert ranker.signal(np.array([0.1])) == pytest.approx(0.5)
    assert np.isfinite(ranker.score(store, [], [1, 2])).all()
    assert ranker.score(store, [4], []).shape == (0,)


def test_the_model_sees_only_its_features(tmp_path, store):
    write_ranker(tmp_path, store)
    everything = Ranker.open(tmp_path).score(store, [4], np.arange(40))
    data = json.loads((tmp_path / "ranker" / META_FILE).read_text(encoding="utf-8"))
    data["scale"], data["shift"] = 2.0, -1.0
    (tmp_path / "ranker" / META_FILE).write_text(json.dumps(data), encoding="utf-8")
    raw = np.log(everything / (1 - everything))
    np.testing.assert_allclose(
        Ranker.open(tmp_path).score(store, [4], np.arange(40)), calibrated(raw, 2.0, -1.0), rtol=1e-3
    )


def test_a_build_without_events_scores_nan(tmp_path, store):
    (tmp_path / "ranker").mkdir()
    (tmp_path / "ranker" / META_FILE).write_text('{"kind": "none", "reason": "no events"}', encoding="utf-8")
    ranker = Ranker.open(tmp_path, store)
    assert not ranker.available
    scores = ranker.score(store, [1], [2, 3])
    assert scores.dtype == np.float32
    assert np.isnan(scores).all()
    assert len(scores) == 2


def test_a_missing_ranker_says_what_to_do(tmp_path):
    with pytest.raises(RankerError, match="run endcap build ranker"):
        Ranker.open(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "lightgbm"}'])
def test_a_damaged_description(tmp_path, text):
    (tmp_path / "ranker").mkdir()
    (tmp_path / "ranker" / META_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(RankerError, match=META_FILE):
        Ranker.open(tmp_path)


def test_a_model_of_other_features(tmp_path, store):
    write_ranker(tmp_path, store, features=["moon_phase"])
    with pytest.raises(RankerError, match="moon_phase"):
        Ranker.open(tmp_path)


def test_a_damaged_model(tmp_path, store):
    write_ranker(tmp_path, store)
    (tmp_path / "ranker" / MODEL_FILE).write_text("tree?\n", encoding="utf-8")
    with pytest.raises(RankerError, match=MODEL_FILE):
        Ranker.open(tmp_path)
