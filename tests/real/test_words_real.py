"""A search for what names a product, and for its words, on the real server."""

import random

import pytest
from endcap_client import Client, Rules
from endcap_server.shop.store import ItemStore


def test_a_product_id_finds_its_product_first(pytestconfig: pytest.Config, client: Client, store: ItemStore) -> None:
    rows = [row for row in range(len(store)) if store.in_stock[row]]
    for row in random.Random(4).sample(rows, 40 if pytestconfig.getoption("--long") else 10):
        name = store.product_ids[row]
        for query in (name, name.lower(), name.replace("-", " "), f"where is {name} please"):
            found = client.search(query, products=5)
            assert found.products[0].product_id == name, query
            assert len(found.products) == 5


def test_a_named_product_that_may_not_be_shown_is_not(client: Client, store: ItemStore) -> None:
    sold_out = store.product_ids[next(row for row in range(len(store)) if not store.in_stock[row])]
    assert sold_out not in [product.product_id for product in client.search(sold_out, products=100).products]
    name = store.product_ids[next(row for row in range(len(store)) if store.in_stock[row])]
    found = client.search(name, products=100, rules=Rules(exclude_products=(name,)))
    assert len(found.products) == 100
    assert name not in [product.product_id for product in found.products]


def test_pins_stand_above_what_a_search_names(client: Client, store: ItemStore) -> None:
    name, pinned = (store.product_ids[row] for row in [row for row in range(len(store)) if store.in_stock[row]][:2])
    found = client.search(name, products=5, rules=Rules(pin=(pinned,)))
    assert [product.product_id for product in found.products[:2]] == [pinned, name]


def test_a_whole_title_is_the_best_match_of_words(client: Client, store: ItemStore) -> None:
    rows = [row for row in range(len(store)) if store.in_stock[row]]
    titles = list(store.titles)
    for row in random.Random(5).sample([row for row in rows if titles.count(titles[row]) == 1], 20):
        found = client.search(store.titles[row], products=10, explain=True)
        signals = {product.product_id: product.signals["lexical"] for product in found.products}
        assert signals.get(store.product_ids[row]) == pytest.approx(1.0), store.titles[row]
