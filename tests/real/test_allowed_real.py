"""Exclusions are part of the search: as many products as asked for, whenever so many are allowed and in stock."""

import numpy as np
import pytest
from endcap_client import Client, Rules
from endcap_server.shop.store import ItemStore


@pytest.mark.parametrize("kept", [0, 1, 2])
@pytest.mark.parametrize("query", ["plant-based mince", "paint", "dog"])
def test_all_categories_but_one_excluded(client: Client, store: ItemStore, kept: int, query: str) -> None:
    tops = sorted({category.split(" > ")[0] for category in store.categories})
    rules = Rules(exclude_categories=tuple(top for top in tops if top != tops[kept]))
    of_kept = [index for index, category in enumerate(store.categories) if category.split(" > ")[0] == tops[kept]]
    left = int((np.isin(store.category, of_kept) & store.in_stock).sum())
    found = client.search(query, products=100, rules=rules).products
    assert len(found) == min(100, left)
    rows = store.product_ids.find([product.product_id for product in found])
    assert np.isin(store.category[rows], of_kept).all()
    assert store.in_stock[rows].all()
    page = client.storefront(session=[query], placements=2, products=6, rules=rules)
    assert [len(placement.products) for placement in page.placements] == [6, 6]
    shown = [product.product_id for placement in page.placements for product in placement.products]
    assert np.isin(store.category[store.product_ids.find(shown)], of_kept).all()


def test_all_products_of_a_search_excluded(client: Client) -> None:
    first = client.search("plant-based mince", products=100)
    rules = Rules(exclude_products=tuple(product.product_id for product in first.products))
    second = client.search("plant-based mince", products=100, rules=rules)
    assert len(first.products) == len(second.products) == 100
    assert not {product.product_id for product in first.products} & {each.product_id for each in second.products}
