"""Shoppers of events, and what is said of what they bought."""

from pathlib import Path

import numpy as np
import pytest
from endcap_builders.behaviour.log import EventLog
from endcap_client import Placement, ScoredProduct
from endcap_server.shop.facts import FOLDER
from endcap_studio.shop import Shop
from endcap_studio.shoppers import Shoppers
from endcap_studio.why import Why
from server.tiny_shop import build_shop

ANN = [(0, 1, 100, True), (0, 2, 101, False), (0, 1, 121, True), (0, 1, 142, True), (0, 4, 150, True)]
ANNIKA, BOB = [(1, 7, 163, False)], [(2, 1, 90, True), (2, 4, 95, True), (2, 4, 99, True)]
SHOPPER, ROW, DAY, BOUGHT = (np.array(column) for column in zip(*ANN, *ANNIKA, *BOB, strict=True))
LOG = EventLog(ROW, SHOPPER, DAY, BOUGHT, 64, ("ann", "annika", "bob"))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(build_shop(tmp_path), tmp_path / FOLDER, None)


def test_shoppers_by_what_they_bought() -> None:
    shoppers = Shoppers(LOG)
    assert len(shoppers) == 3
    assert shoppers.who_bought([4], 5) == [("bob", 2), ("ann", 1)]
    assert shoppers.who_bought([1, 4], 1) == [("ann", 4)]
    assert shoppers.who_bought([2, 7, 9], 5) == shoppers.who_bought([], 5) == [], "views are no purchases"
    assert shoppers.named("ann", 5) == ["ann", "annika"]
    assert shoppers.named("", 2) == ["ann", "annika"]
    assert shoppers.named("bobby", 2) == shoppers.named("zoe", 2) == []
    assert shoppers.sample(2) == ["ann", "bob"]


def test_a_shopper() -> None:
    ann = Shoppers(LOG).get("ann")
    assert ann is not None
    assert ann.history == (2, 1, 4), "each product once, by its last event"
    assert ann.bought == {1: (100, 121, 142), 4: (150,)}
    assert ann.today == 163
    assert Shoppers(LOG).get("nobody") is None


def test_why(shop: Shop) -> None:
    ann = Shoppers(LOG).get("ann")
    assert ann is not None
    why = Why(shop, ann.history, ann.bought, ann.today)

    def said(row: int, source: str = "generated", **signals: float) -> str:
        return why(Placement("Rain", (), (), source), ScoredProduct(shop.store.product_ids[row], 0.5, signals))

    assert (
        said(1, "classic:buy_again", ranker=0.8)
        == "Bought 3 times, every 3 weeks, due; more likely to be bought than average (0.80)"
    )
    assert said(4, relevance=0.9) == "Bought once, 13 days ago; fits the theme 0.90"
    assert said(2) == "Viewed before"
    assert said(9, "classic:popular", popularity=0.9) == "Sells well now"
    assert Why(shop, [2])(Placement("Rain", (), ()), ScoredProduct(shop.store.product_ids[2], 0.5)) == "In the history"


def test_a_build_whose_catalogue_is_away(shop: Shop) -> None:
    assert shop.shoppers is None
    assert "name its folder with --catalogue" in shop.extras.problem
    assert shop.find(shop.store.product_ids[5], 3)[0] == 5
    assert shop.products(["unknown", shop.store.product_ids[5]]).keys() == {shop.store.product_ids[5]}
    assert shop.picture(shop.store.product_ids[5]) is None
