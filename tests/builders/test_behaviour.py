import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from endcap_builders.behaviour.log import EventLog
from endcap_builders.behaviour.tables import BehaviourSettings, behaviour_of
from endcap_builders.steps.behaviour import STEP
from endcap_server.shop.behaviour import NEIGHBOURS, Behaviour
from endcap_server.shop.columns import StoreError, save_array
from endcap_server.shop.store import ItemStore
from endcap_server.stages.sources import Profile, SourceTables
from endcap_server.stages.sources.repeats import repeats

from tests.builders.test_ranker import PRODUCTS, context, make_store

START = datetime(2026, 1, 5, 9, tzinfo=UTC)
SCHEMA = {"user_id": pl.String, "product_id": pl.String, "timestamp": pl.Datetime("us", "UTC"), "type": pl.String}
NO_CATEGORY = np.full(PRODUCTS, -1)


def events(*lines: tuple[str, int, float, str]) -> pl.DataFrame:
    rows = [(user, f"p{row}", START + timedelta(days=day), kind) for user, row, day, kind in lines]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


@pytest.fixture
def store(tmp_path) -> ItemStore:
    return make_store(tmp_path)


def tables(store: ItemStore, table: pl.DataFrame, **settings) -> Behaviour:
    log = EventLog.read(table, store)
    return behaviour_of(log, int(log.day.max()) + 1, NO_CATEGORY, BehaviourSettings(**settings))


def test_purchases_count_once_a_day_and_half_after_the_half_life(store):
    made = tables(
        store,
        events(
            ("a", 1, 0, "purchase"),
            ("a", 1, 0.1, "purchase"),
            ("a", 1, 9, "purchase"),
            ("b", 1, 9, "purchase"),
            ("b", 2, 9, "purchase"),
        ),
        half_life_days=9,
    )
    day_ago = 0.5 ** (1 / 9)
    assert made.bought[[1, 2, 3]].tolist() == [3, 1, 0]
    assert made.shoppers[[1, 2]].tolist() == [2, 1]
    assert made.recent[1] == pytest.approx(day_ago * 2.5)
    assert made.first[1] == pytest.approx(day_ago * 1.5)
    assert made.by_popularity.tolist() == [1, 2]


def test_what_lasts_is_not_bought_again_as_the_events_say(store):
    lines = []
    for shopper in range(30):
        lines += [(f"u{shopper}", 1, 2 * day, "purchase") for day in range(10)]  # milk
        lines.append((f"u{shopper}", 2, shopper % 9, "purchase"))  # a television
        lines.append((f"once{shopper}", 1, 3, "purchase"))  # never seen again: they tell nothing
    made = tables(store, events(*lines))
    assert made.repeat[1] > 0.9
    assert made.repeat[2] < 0.1
    found = repeats(SourceTables.of(made, NO_CATEGORY, []), Profile.of(np.array([1, 1, 2, 2, 2])))
    assert found.rows.tolist() == [1, 2]


def test_repeat_of_a_rare_product_is_that_of_its_category(store):
    lines = [(f"u{shopper}", 1, day, "purchase") for shopper in range(40) for day in range(3)]
    lines += [(f"v{shopper}", 5, day, "purchase") for shopper in range(40) for day in range(1)]
    lines += [(f"v{shopper}", 6, 2, "purchase") for shopper in range(40)]
    category = NO_CATEGORY.copy()
    category[[1, 3]], category[[5, 7]] = 0, 1
    log = EventLog.read(events(*lines), store)
    made = behaviour_of(log, int(log.day.max()) + 1, category, BehaviourSettings())
    assert made.repeat[3] > 0.8
    assert made.repeat[7] < 0.3


def test_neighbours_are_what_the_same_shoppers_buy(store):
    lines = [(f"u{shopper}", row, row, "purchase") for shopper in range(20) for row in (1, 2)]
    lines += [(f"v{shopper}", row, row, "purchase") for shopper in range(20) for row in (3, 4)]
    lines += [("u0", 3, 5, "purchase")]
    made = tables(store, events(*lines))
    assert made.neighbour[1][:2].tolist() == [2, 3]
    assert made.neighbour[3][0] == 4
    assert made.nearness[1, 0] > made.nearness[1, 1] > 0
    assert made.neighbour[9].tolist() == [-1] * NEIGHBOURS
    assert not any((row == made.neighbour[row]).any() for row in range(PRODUCTS))


def test_one_product_bought_200_times_has_no_neighbour_and_is_itself_repeated(store):
    made = tables(store, events(*[("a", 1, day, "purchase") for day in range(200)]))
    assert made.bought[1] == 200
    assert made.neighbour[1, 0] == -1
    found = repeats(SourceTables.of(made, NO_CATEGORY, []), Profile.of(np.full(200, 1)))
    assert found.rows.tolist() == [1]


@pytest.mark.parametrize("kind", ["view", "cart", "purchase"])
def test_a_log_of_one_kind_of_event_counts_that(store, kind):
    made = tables(store, events(("a", 1, 0, kind), ("b", 1, 1, kind)))
    assert made.bought[1] == 2


def test_of_several_kinds_only_purchases_count_but_views_join_products(store):
    made = tables(store, events(("a", 1, 0, "view"), ("a", 2, 1, "purchase")))
    assert made.bought[[1, 2]].tolist() == [0, 1]
    assert made.neighbour[2, 0] == 1


def test_a_clock_that_runs_backwards_and_unknown_products(store):
    table = events(
        ("b", 3, 5, "purchase"), ("a", 2, 4, "purchase"), ("a", 1, -400, "purchase"), ("a", 1, 3, "purchase")
    )
    table = pl.concat([table, table.head(1).with_columns(pl.lit("gone").alias("product_id"))])
    log = EventLog.read(table, store)
    assert [rows.tolist() for rows in log.by_shopper().values()] == [[1, 1, 2], [3]]
    made = behaviour_of(log, int(log.day.max()) + 1, NO_CATEGORY, BehaviourSettings())
    assert np.isfinite(made.recent).all()
    assert (made.recent <= made.bought).all()


@pytest.mark.parametrize("table", [None, events(), events(("a", 999_999, 0, "purchase"))])
def test_a_catalogue_without_usable_events_has_empty_tables(tmp_path, store, table):
    ctx = context(tmp_path, table)
    figures = STEP.run(ctx, BehaviourSettings())
    json.dumps(figures)
    assert figures["events"] == figures["products_sold"] == 0
    ctx.output.rename(tmp_path / "behaviour")
    assert not Behaviour.open(tmp_path, store).by_popularity.size


def test_the_step_writes_what_is_opened(tmp_path, store):
    ctx = context(tmp_path, events(("a", 1, 0, "purchase"), ("a", 2, 1, "purchase")))
    assert STEP.run(ctx, BehaviourSettings())["products_with_neighbours"] == 2
    ctx.output.rename(tmp_path / "behaviour")
    opened = Behaviour.open(tmp_path, store)
    assert opened.neighbour[1, 0] == 2
    assert opened.bought.sum() == 2


def test_tables_of_another_store_are_refused(tmp_path, store):
    Behaviour.empty(PRODUCTS).write(tmp_path / "behaviour")
    save_array(tmp_path / "behaviour", "recent", np.zeros(3), np.float32)
    with pytest.raises(StoreError, match=r"recent.*240 products.*got 3"):
        Behaviour.open(tmp_path, store)
