"""Pages against later purchases: the cut, the shoppers, the simple pages and their shares."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from endcap_builders.catalogue import Catalogue, CatalogueError
from endcap_builders.catalogue.cut import EventCut
from endcap_builders.evaluation.pages import (
    Shopper,
    baseline_pages,
    coverage,
    gini,
    shares,
    shoppers_of,
    title_figures,
)
from pydantic import ValidationError

START = datetime(2024, 1, 1, tzinfo=UTC)
Row = tuple[str, str, float, str]
"""Shopper, product, day, type."""


def events(rows: list[Row]) -> pl.DataFrame:
    frame = pl.DataFrame(
        [(user, product, START + timedelta(days=day), kind) for user, product, day, kind in rows],
        schema={
            "user_id": pl.String, "product_id": pl.String, "timestamp": pl.Datetime("us", "UTC"), "type": pl.String
        },
        orient="row",
    )  # fmt: skip
    return frame.sort("user_id", "timestamp", maintain_order=True)


def shop(rows: list[Row] | None, products: int = 8, **columns: Any) -> Catalogue:
    table = pl.DataFrame({"product_id": [f"p{n}" for n in range(products)]}).with_columns(
        category=pl.lit("x"), in_stock=pl.lit(True)
    )
    table = table.with_columns(**{name: pl.Series(values) for name, values in columns.items()})
    return Catalogue(Path("shop"), table, None if rows is None else events(rows), None, None, "")


def test_cut_by_time() -> None:
    catalogue = shop([("u", "p0", 0, "purchase"), ("u", "p1", 1, "view"), ("v", "p2", 2, "purchase")])
    before, after = EventCut(events_until="2024-01-02").split(catalogue)
    assert before.events is not None
    assert before.events["product_id"].to_list() == ["p0"]
    assert after["product_id"].to_list() == ["p1", "p2"]
    assert EventCut(events_until="2024-01-02T00:00:01").before(catalogue).events.height == 2  # type: ignore[union-attr]
    # An offset from UTC counts: it is midnight in UTC an hour later.
    assert EventCut(events_until="2024-01-02T01:00:00+02:00").split(catalogue)[1].height == 2
    assert EventCut().before(catalogue) is catalogue


def test_cut_by_orders() -> None:
    orders: list[Row] = [("u", f"p{place}", day + place / 1440, "purchase") for day in (0, 7, 14) for place in range(6)]
    few: list[Row] = [("v", "p0", 0, "purchase"), ("v", "p1", 9, "purchase")]
    late_view: list[Row] = [("u", "p7", 14.5, "view"), ("u", "p6", 13, "view")]
    before, after = EventCut(hold_out_orders=1).split(shop([*orders, *few, *late_view]))
    # The last order, and what follows it; nothing of a shopper who would be left with too little.
    assert set(after["user_id"]) == {"u"}
    assert after["product_id"].to_list() == [*(f"p{place}" for place in range(6)), "p7"]
    assert before.events is not None
    assert before.events.height == 12 + 1 + 2
    with_two = EventCut(hold_out_orders=2).split(shop([*orders, *few]))
    assert with_two[1].is_empty()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"events_until": "week 42"}, "expected a date or time such as 2017-10-16"),
        ({"events_until": "2024-01-01", "hold_out_orders": 1}, "exclude each other"),
        ({"hold_out_orders": -1}, "greater than or equal to 0"),
    ],
)
def test_wrong_cuts(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EventCut(**settings)


def test_nothing_to_cut() -> None:
    with pytest.raises(CatalogueError, match=r"events\.parquet: expected events to cut, got no such file"):
        EventCut(events_until="2024-01-01").before(shop(None))
    with pytest.raises(CatalogueError, match="expected events before 2023-01-01, got events from 2024-01-01"):
        EventCut(events_until="2023-01-01").before(shop([("u", "p0", 0, "purchase")]))


def test_who_is_measured() -> None:
    before: list[Row] = [("old", f"p{n % 3}", n, "view" if n % 2 else "purchase") for n in range(10)]
    before += [("few", "p0", n, "purchase") for n in range(9)]
    before += [("gone", "p0", n, "purchase") for n in range(10)]
    after: list[Row] = [(user, f"p{n}", 20 + n, "purchase") for user in ("old", "few", "new") for n in range(2, 5)]
    after += [("gone", "p1", 20, "purchase"), ("gone", "p1", 21, "purchase"), ("gone", "p2", 22, "view")]
    known, new = shoppers_of(events(before), events(after))
    assert [shopper.user_id for shopper in known] == ["old"]
    assert known[0].history == tuple(f"p{n % 3}" for n in range(10))
    assert known[0].bought_before == ("p0", "p2", "p1", "p0", "p2")
    assert known[0].bought_after == {"p2", "p3", "p4"}
    assert known[0].new_after == {"p3", "p4"}
    assert [shopper.user_id for shopper in new] == ["new"]


def test_simple_pages() -> None:
    rows: list[Row] = [("crowd", f"p{n}", n, "purchase") for n in range(8) for _ in range(8 - n)]
    rows += [("crowd", "p7", 9, "view")] * 50
    mine = ("p5", "p6", "p6", "p5", "p3", "p7")
    catalogue = shop(rows, category=["a", "a", "b", "b", "", "c", "c", "d"], in_stock=[False] + [True] * 7)
    shopper = Shopper("me", (*mine, "p2"), mine, frozenset({"p6"}))
    pages = {name: each[0] for name, each in baseline_pages(catalogue, [shopper], size=4).items()}
    # p0 is sold out; p7 is looked at most, but bought least.
    assert pages["popular"] == ["p1", "p2", "p3", "p4"]
    # Twice bought first, the later one of two; then the latest.
    assert pages["own"] == ["p5", "p6", "p7", "p3"]
    assert pages["half"] == ["p5", "p6", "p1", "p4"]
    assert pages["static"] == ["p5", "p2", "p7"]
    short = {name: each[0] for name, each in baseline_pages(catalogue, [shopper], size=6).items()}
    assert short["own"] == ["p5", "p6", "p7", "p3", "p1", "p4"]


def test_a_shopper_with_nothing_before() -> None:
    pages = baseline_pages(shop([("u", "p1", 0, "purchase")]), [Shopper("me", (), (), frozenset({"p1"}))])
    assert pages == {"popular": [["p1"]], "own": [["p1"]], "static": [[]], "half": [["p1"]]}


def test_shares() -> None:
    shoppers = [
        Shopper("a", ("p0",), ("p0",), frozenset({"p0", "p1", "p2", "p3"})),
        Shopper("b", ("p0", "p1"), ("p0",), frozenset({"p0", "p1"})),
    ]
    found = shares([["p0", "p1", "p9"], ["p1"]], shoppers)
    np.testing.assert_allclose(found["all"], [0.5, 0.5])
    np.testing.assert_allclose(found["new"], [1 / 3, np.nan])
    with pytest.raises(ValueError, match="zip"):
        shares([[]], shoppers)


def test_what_the_pages_show() -> None:
    assert coverage([["a", "b"], ["a"]], 4) == 0.5
    assert gini([["a", "b"], ["c", "d"]], 4) == 0
    assert gini([["a"], ["a"]], 4) == pytest.approx(0.75)
    assert gini([[]], 4) == 0
    figures = title_figures([["Tea", "Soup"], ["Soup", "Soup"], ["Milk"]])
    assert figures == {
        "shown": 5,
        "distinct": 3,
        "distinct_share": 0.6,
        "most_frequent": "Soup",
        "most_frequent_share": 0.6667,
    }
