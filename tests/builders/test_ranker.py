import itertools
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from endcap_builders.behaviour.examples import Cut, Examples, cuts_of, examples_at, page_shares, simple_orders
from endcap_builders.behaviour.log import EventLog
from endcap_builders.behaviour.ranker import _calibrate
from endcap_builders.behaviour.ranker_settings import RankerSettings
from endcap_builders.behaviour.tables import BehaviourSettings
from endcap_builders.catalogue import Catalogue
from endcap_builders.gates import read_gates
from endcap_builders.step import BuildContext
from endcap_builders.steps.ranker import STEP
from endcap_server.shop.store import ItemStore, Ragged
from endcap_server.stages.ranking import FEATURES, Ranker
from rich.console import Console
from tiny_store import write_tiny_keywords, write_tiny_products

PRODUCTS, TASTES = 240, 6
START = datetime(2026, 1, 5, 9, tzinfo=UTC)
SETTINGS = RankerSettings(train_shoppers=400, judge_shoppers=80, trees=40, kept=0.5)


def make_store(build: Path) -> ItemStore:
    """Products of six tastes; categories, brands and vectors know nothing of them, caption tokens do."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((PRODUCTS, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    captions = [[row % TASTES, TASTES + int(rng.integers(9))] for row in range(PRODUCTS)]
    write_tiny_products(
        build,
        vectors,
        category=rng.integers(5, size=PRODUCTS),
        categories=[f"c{category}" for category in range(5)],
        price=rng.uniform(1, 90, PRODUCTS),
        captions=Ragged.of(captions),
        caption_tokens=[f"t{token}" for token in range(TASTES + 9)],
    )
    write_tiny_keywords(build, ["k"], vectors[:1])
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


def test_it_learns_a_taste_that_no_category_shows(tmp_path, store):
    figures = STEP.run(context(tmp_path, make_events()), SETTINGS)
    shares = figures["shares"]
    assert shares["model without captions"]["all"] > 0.8
    assert shares["model"]["all"] > max(shares[name]["all"] for name in ("popular", "own", "half")) + 0.1
    assert figures["mean_score"]["chosen"] > 2 * figures["mean_score"]["others"]
    assert sum(figures["gain_share"].values()) == pytest.approx(1, abs=0.01)
    json.dumps(figures)

    ranker = Ranker.open(tmp_path)
    rows = np.arange(PRODUCTS)
    scores = ranker.score(store, np.array([3, 9, 15, 21]), rows)
    assert scores[rows % TASTES == 3].mean() > 2 * scores[rows % TASTES != 3].mean()
    # A probability: about a shopper's few purchases among the products, not a half.
    assert 0 < scores.mean() < 0.1
    assert 1 < ranker.new_factor < 3
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


def test_a_model_that_a_simple_order_beats_loses_its_gate(tmp_path, store):
    # Everybody buys the same product again and again, and nothing else: no model can do better than their own list.
    lines = [
        (f"u{shopper:03}", f"p{shopper % 7}", START + timedelta(days=day), "purchase")
        for shopper in range(60)
        for day in range(0, 60, 3)
    ]
    events = pl.DataFrame(lines, schema=make_events().schema, orient="row")
    figures = STEP.run(context(tmp_path, events), SETTINGS)
    assert figures["shares"]["own"]["all"] == 1
    lost_to = {gate.baseline_name for gate in read_gates(tmp_path / "ranker") if not gate.better}
    assert "order 'own'" in lost_to


def test_cuts_overlap_by_half_and_the_last_days_are_the_first_cut(store):
    log = EventLog.read(make_events(), store)
    cuts = cuts_of(log, 100)
    last = int(log.day.max()) + 1
    assert cuts[0] == Cut(last - cuts[0].days, cuts[0].days)
    assert {one.day - two.day for one, two in itertools.pairwise(cuts)} == {cuts[0].days // 2}
    assert cuts[-1].day >= log.day.min() + 0.2 * (last - log.day.min())
    assert len(cuts_of(log, 3)) == 3
    assert cuts_of(log.take(log.day < log.day.min() + 5), 3) == []
    assert cuts_of(log.take(np.zeros(len(log), bool)), 3) == []


def test_nothing_after_a_cut_changes_its_features(store):
    log = EventLog.read(make_events(), store)
    cut = cuts_of(log, 100)[3]
    options = {"shoppers": 500, "kept": 1.0, "cut_histories": False}
    whole = examples_at(log, cut, store, BehaviourSettings(), **options, rng=np.random.default_rng(0))
    seen = log.take(log.day < cut.day + cut.days)
    as_of_then = examples_at(seen, cut, store, BehaviourSettings(), **options, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(whole.features, as_of_then.features)
    # Purchases after the cut by others do not reach the features either: only the labels differ.
    other = EventLog(log.row[::-1].copy(), log.shopper, log.day, log.bought, log.products)
    mixed = EventLog(np.where(log.day < cut.day, log.row, other.row), log.shopper, log.day, log.bought, log.products)
    changed = examples_at(mixed, cut, store, BehaviourSettings(), **options, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(whole.features, changed.features)
    assert (whole.bought != changed.bought).any()


def test_shares_of_simple_orders_against_counting_by_hand():
    features = np.full((4, len(FEATURES)), np.nan, np.float32)
    column = {name: FEATURES.index(name) for name in FEATURES}
    features[:, column["bought"]] = [-1, -2, -3, -4]
    features[:, column["seen_count"]] = [0, 0, np.log1p(1), np.log1p(2)]
    features[:, column["seen_recency"]] = [np.nan, np.nan, 0, 1]
    examples = Examples(
        features=features,
        bought=np.array([True, False, False, True]),
        weight=np.ones(4, np.float32),
        new=np.array([True, True, False, False]),
        sizes=np.array([4]),
        all_bought=np.array([4]),
        new_bought=np.array([2]),
    )
    orders = simple_orders(examples, 2)
    assert np.argsort(-orders["popular"]).tolist() == [0, 1, 2, 3]
    assert np.argsort(-orders["own"]).tolist() == [3, 2, 0, 1]
    assert np.argsort(-orders["half"]).tolist()[:3] == [3, 0, 1]
    assert page_shares(examples, orders["own"], 2) == (0.25, 0.0)
    assert page_shares(examples, orders["half"], 2) == (0.5, 0.5)
    assert page_shares(examples, orders["popular"], 4) == (0.5, 0.5)


def test_calibration_gives_the_share_of_what_is_bought():
    rng = np.random.default_rng(0)
    truth = rng.normal(-4, 1.5, 60_000)
    bought = rng.random(60_000) < 1 / (1 + np.exp(-truth))
    scale, shift = _calibrate(2 * truth + 3, bought)
    assert scale == pytest.approx(0.5, rel=0.1)
    assert shift == pytest.approx(-1.5, abs=0.3)
