import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from endcap_builders.catalogue import Catalogue
from endcap_builders.pipeline import BuildContext
from endcap_builders.ranking_examples import Sampler, make_examples, popularity_before, read_visits
from endcap_builders.steps.ranker import STEP, RankerSettings, _calibrate, _ndcg
from endcap_builders.steps.store import _popularity as _store_popularity
from endcap_server.shop.store import ItemStore, KeywordColumns, ProductColumns, Ragged
from endcap_server.stages.ranking import FEATURES, FeatureTables, Ranker
from rich.console import Console

PRODUCTS, TASTES = 240, 6
START = datetime(2026, 1, 5, 9, tzinfo=UTC)
SETTINGS = RankerSettings(train_visits=300, judge_visits=80, negatives=24, trees=30)


def make_store(build: Path) -> ItemStore:
    """Products of six tastes; categories, brands and vectors know nothing of them, caption tokens do."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((PRODUCTS, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    captions = [[row % TASTES, TASTES + int(rng.integers(9))] for row in range(PRODUCTS)]
    ProductColumns(
        product_ids=[f"p{row}" for row in range(PRODUCTS)],
        titles=["x"] * PRODUCTS,
        vectors=vectors,
        brand=np.full(PRODUCTS, -1),
        brands=[],
        category=rng.integers(5, size=PRODUCTS),
        categories=[f"c{category}" for category in range(5)],
        price=rng.uniform(1, 90, PRODUCTS),
        in_stock=np.ones(PRODUCTS, bool),
        popularity=np.zeros(PRODUCTS),
        tokens=Ragged.of(captions),
        captions=Ragged.of(captions),
        caption_tokens=[f"t{token}" for token in range(TASTES + 9)],
        tokenizer="none",
        max_product_tokens=8,
    ).write(build / "store")
    KeywordColumns(["k"], vectors[:1], np.array([1])).write(build / "store")
    return ItemStore.open(build)


def make_events(shoppers: int = 60, days: int = 10) -> pl.DataFrame:
    """Every shopper has one taste, looks at two products a day and buys a third."""
    rng = np.random.default_rng(2)
    lines = []
    for shopper in range(shoppers):
        for day in np.sort(rng.choice(60, days, replace=False)):
            for minute, kind in enumerate(("view", "view", "purchase")):
                row = int(rng.integers(PRODUCTS // TASTES)) * TASTES + shopper % TASTES
                lines.append((f"u{shopper:03}", f"p{row}", START + timedelta(days=int(day), minutes=minute), kind))
    schema = {
        "user_id": pl.String,
        "product_id": pl.String,
        "timestamp": pl.Datetime("us", "UTC"),
        "type": pl.String,
    }
    return pl.DataFrame(lines, schema=schema, orient="row").sort("user_id", "timestamp")


@pytest.fixture
def store(tmp_path) -> ItemStore:
    return make_store(tmp_path)


def context(build: Path, events: pl.DataFrame | None) -> BuildContext:
    output = build / "ranker"
    output.mkdir()
    return BuildContext(
        build=build,
        catalogue_folder=build,
        output=output,
        work=build / "work",
        seed=7,
        profile="cpu",
        console=Console(quiet=True),
        _shared={"catalogue": Catalogue(build, pl.DataFrame(), events, None, None, "digest")},
    )


def test_it_learns_a_taste_that_only_captions_show(tmp_path, store):
    figures = STEP.run(context(tmp_path, make_events()), SETTINGS)
    ndcg = figures["ndcg@10"]
    assert ndcg["model"] > ndcg["model without captions"] + 0.1
    assert ndcg["model"] > ndcg["popularity"] + 0.1
    assert figures["mean_score"]["chosen"] > 0.6 > 0.4 > figures["mean_score"]["others"]
    assert sum(figures["gain_share"].values()) == pytest.approx(1, abs=0.01)
    json.dumps(figures)

    ranker = Ranker.open(tmp_path)
    rows = np.arange(PRODUCTS)
    scores = ranker.score(store, np.array([3, 9, 15, 21]), rows)
    assert scores[rows % TASTES == 3].mean() > scores[rows % TASTES != 3].mean() + 0.2
    assert ((scores >= 0) & (scores <= 1)).all()


def test_the_served_model_can_do_without_captions(tmp_path, store):
    STEP.run(context(tmp_path, make_events()), SETTINGS.model_copy(update={"captions": False}))
    meta = json.loads((tmp_path / "ranker/ranker.json").read_text(encoding="utf-8"))
    assert not any(name.startswith("caption") for name in meta["features"])
    assert Ranker.open(tmp_path).score(store, [3], [1, 2]).shape == (2,)


def test_the_same_seed_gives_the_same_model(tmp_path):
    models = []
    for name in ("a", "b"):
        build = tmp_path / name
        make_store(build)
        STEP.run(context(build, make_events()), SETTINGS)
        models.append((build / "ranker/model.txt").read_text(encoding="utf-8"))
    assert models[0] == models[1]


@pytest.mark.parametrize("events", [None, make_events().head(0), make_events(2, 3), make_events(30, 1)])
def test_too_few_events_make_no_model(tmp_path, store, events):
    if events is not None and events.height > 80:
        events = events.with_columns(pl.lit(START).cast(pl.Datetime("us", "UTC")).alias("timestamp"))
    figures = STEP.run(context(tmp_path, events), SETTINGS)
    assert figures["kind"] == "none"
    assert figures["reason"]
    assert not Ranker.open(tmp_path).available


def test_visits_are_days_with_a_purchase_and_history_is_what_was_before(store):
    def event(user, product, day, kind):
        return (user, product, START + timedelta(days=day), kind)

    lines = [
        event("a", "p1", 0, "view"),
        event("a", "p2", 1, "view"),
        event("a", "p3", 1, "purchase"),
        event("a", "gone", 2, "purchase"),
        event("b", "p4", 0, "purchase"),
        event("b", "p5", 3, "cart"),
    ]
    schema = ["user_id", "product_id", "timestamp", "type"]
    visits = read_visits(pl.DataFrame(lines, schema=schema, orient="row"), store)
    assert len(visits) == 2
    assert (np.diff(visits.day) >= 0).all()
    histories = [visits.rows[begin:start].tolist() for begin, start in zip(visits.history, visits.start, strict=True)]
    chosen = [visits.rows[start:end].tolist() for start, end in zip(visits.start, visits.end, strict=True)]
    assert histories == [[], [1]]
    assert chosen == [[4], [2, 3]]
    before = popularity_before(visits, int(visits.day[1]), len(store))
    assert np.flatnonzero(before).tolist() == [1, 4]
    assert before.max() == 1


def test_popularity_is_counted_as_the_store_counts_it(store):
    products = pl.DataFrame({"product_id": [f"p{row}" for row in range(PRODUCTS)]})
    events = make_events(9, 4)
    visits = read_visits(events, store)
    np.testing.assert_allclose(
        popularity_before(visits, 10**6, PRODUCTS), _store_popularity(products, events), rtol=1e-6
    )


def test_a_log_without_purchases_uses_its_strongest_event(store):
    events = make_events().filter(pl.col("type") == "view")
    assert len(read_visits(events, store)) == 600


def test_examples_do_not_know_what_they_predict(store):
    """Popularity comes from before, and no candidate appears twice or on both sides."""
    visits = read_visits(make_events(), store)
    tables = FeatureTables.of(store, np.zeros(PRODUCTS, np.float32))
    rng = np.random.default_rng(0)
    examples = make_examples(visits, range(20), tables, negatives=24, rng=rng, cut_histories=False)
    assert len(examples.features) == len(examples.grades) == examples.sizes.sum()
    assert (examples.features[:, FEATURES.index("popularity")] == 0).all()
    for grades in examples.groups(examples.grades):
        assert grades.max() == 3
        assert 12 <= (grades == 0).sum() <= 24

    sampler = Sampler(tables, tables.popularity, rng)
    negatives = sampler.negatives(np.array([1, 2]), np.array([3, 9]), 40)
    assert len(set(negatives.tolist())) == len(negatives)
    assert not {3, 9} & set(negatives.tolist())


def test_ndcg_of_known_orders(store):
    visits = read_visits(make_events(), store)
    tables = FeatureTables.of(store)
    examples = make_examples(visits, range(40), tables, negatives=24, rng=np.random.default_rng(0), cut_histories=False)
    assert _ndcg(examples, examples.grades.astype(float)) == pytest.approx(1)
    assert _ndcg(examples, -examples.grades.astype(float)) == pytest.approx(0, abs=0.05)
    assert 0.05 < _ndcg(examples, np.zeros(len(examples.grades))) < 0.6


def test_calibration_finds_the_scale_whatever_the_share_of_the_chosen():
    rng = np.random.default_rng(0)
    chosen = rng.random(40_000) < 0.05
    raw = rng.normal(np.where(chosen, 1.0, -1.0), 1.0)  # log odds with equal priors: 2 * raw
    scale, shift = _calibrate(raw, chosen)
    assert scale == pytest.approx(2, rel=0.1)
    assert shift == pytest.approx(0, abs=0.1)
