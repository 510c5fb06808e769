"""Pages and searches as a ranking service gets them: through the client, from the real server."""

import html
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from conftest import BUILDS, SMALL_BUILD
from endcap_builders.catalogue import read_catalogue
from endcap_builders.demo import demo_requests, write_pages
from endcap_builders.manifest import read_manifest
from endcap_client import Client, Rules
from endcap_server.launch import Server
from endcap_server.shop.store import ItemStore
from endcap_server.stages.rerank import RerankParameters
from endcap_server.stages.status import part_of

from benchmarks.storefront_validity import problems, random_shopper


def test_random_storefronts_are_valid(pytestconfig: pytest.Config, client: Client, store: ItemStore) -> None:
    rng = random.Random(5)
    shoppers = [random_shopper(store, rng) for _ in range(60 if pytestconfig.getoption("--long") else 20)]
    # A busy server refuses requests of more clients than two.
    with ThreadPoolExecutor(2) as pool:
        pages = list(pool.map(lambda shopper: client.storefront(shopper[0], shopper[1], placements=3), shoppers))
    assert [problems(page, store, 3) for page in pages] == [[]] * len(pages)
    assert {page.status.stages["theme"].source for page in pages} <= {"generated", "cached"}


def test_the_time_of_a_stage_has_the_writing_of_its_answer_in_it(server: Server) -> None:
    budget = triton.InferInput("BUDGET_MS", [1], "INT32").set_data_from_numpy(np.array([200], np.int32))
    with triton.InferenceServerClient(server.grpc_address) as connection:
        asked = [triton.InferRequestedOutput("PAGE")]
        found = connection.infer("retrieval", [budget], outputs=asked, client_timeout=30)
    part = part_of(found.as_numpy("PAGE"))
    whole_ms = (part["finished_ns"] - part["started_ns"]) / 1e6
    assert whole_ms > part["ms"] + 0.001, "`ms` was taken before the document was written, `finished_ns` after"


def test_new_shopper_gets_a_full_page(client: Client) -> None:
    page = client.storefront(placements=4, products=6)
    assert len(page.placements) == 4
    assert all(len(placement.products) == 6 for placement in page.placements)


def test_equal_request_comes_from_the_cache(client: Client, new_history: Callable[[], list[str]]) -> None:
    # What a small model writes for one shopper may all be refused.
    asked = ((each, client.storefront(each, placements=2)) for each in (new_history() for _ in range(40)))
    history, first = next((each, page) for each, page in asked if page.status.stages["theme"].source == "generated")
    second = client.storefront(history, placements=2)
    assert second.status.stages["theme"].source == "cached"
    assert second.status.stages["keywords"].source == "cached"
    assert [p.theme for p in second.placements] == [p.theme for p in first.placements]
    assert [p.products for p in second.placements] == [p.products for p in first.placements]


def test_explain_names_every_signal(client: Client, store: ItemStore) -> None:
    page = client.storefront([store.product_ids[5]], explain=True)
    for placement in page.placements:
        for product in placement.products:
            assert set(product.signals) == set(page.status.signals)


def test_relevance_comes_from_postings_and_else_from_the_cross_encoder(
    build: Path, client: Client, new_history: Callable[[], list[str]]
) -> None:
    figures = read_manifest(build)["steps"]["postings"]["figures"]
    assert 0 < figures["pairs"] <= SMALL_BUILD["postings"]["most_pairs"]
    parts = [client.storefront(new_history()).status.document["stages"]["rerank"] for _ in range(4)]
    most = RerankParameters().online_pairs
    for part in parts:
        assert sum(part["relevance_from"].values()) == part["pairs"]
        assert part["relevance_from"]["online"] <= most
        assert part["relevance_from"]["estimated"] == 0 or part["relevance_from"]["online"] == most
    assert sum(part["relevance_from"]["postings"] for part in parts) > 0


def test_rules_are_obeyed(client: Client, store: ItemStore) -> None:
    plain = client.storefront(placements=2, products=10)
    brands = [store.brands[store.brand[row]] for row in store.product_ids.find(_ids(plain)) if store.brand[row] >= 0]
    banned = max(set(brands), key=brands.count)
    brand_of = [store.brands[brand] if brand >= 0 else "" for brand in store.brand.tolist()]
    pinned = next(
        store.product_ids[row] for row, brand in enumerate(brand_of) if store.in_stock[row] and brand != banned
    )
    rules = Rules(pin=(pinned,), exclude_brands=(banned,), max_per_brand=2, required_themes=("Gift ideas",))
    page = client.storefront(placements=2, products=10, rules=rules)
    assert page.placements[0].theme == "Gift ideas"
    assert page.placements[0].products[0].product_id == pinned
    shown = store.product_ids.find(_ids(page))
    assert banned not in {store.brands[store.brand[row]] for row in shown if store.brand[row] >= 0}
    for placement in page.placements:
        rows = store.product_ids.find([product.product_id for product in placement.products])
        counts = [int((store.brand[rows] == brand).sum()) for brand in set(store.brand[rows].tolist()) if brand >= 0]
        assert max(counts, default=0) <= 2


def test_search_finds_what_the_title_says(client: Client, store: ItemStore) -> None:
    hits = 0
    rows = [row for row in range(0, len(store.product_ids), 97) if store.in_stock[row]]
    for row in rows:
        result = client.search(store.titles[row], products=10)
        hits += store.product_ids[row] in [product.product_id for product in result.products]
    assert hits >= 0.9 * len(rows)


def test_search_of_nonsense_still_answers(client: Client) -> None:
    result = client.search("zxqv ☃ 0000", products=5)
    assert 1 <= len(result.products) <= 5


def test_unknown_history_is_counted(client: Client, store: ItemStore) -> None:
    page = client.storefront([store.product_ids[3], "no-such-product", "nor-this"])
    assert page.status.document["unknown_ids"] == 2


def test_versions_name_every_model(client: Client) -> None:
    versions = client.search("lamp").status.versions
    assert {"catalogue", "index"} <= set(versions)
    assert any("cross_encoder" in name for name in versions)


def _ids(page: object) -> list[str]:
    return [product.product_id for placement in page.placements for product in placement.products]  # type: ignore[attr-defined]


def test_the_pages_of_the_demo_as_one_file(server: Server, tmp_path: Path) -> None:
    catalogue = read_catalogue(BUILDS / "catalogues/test")
    requests = demo_requests(catalogue)
    file = write_pages(server.grpc_address, requests, catalogue.folder, tmp_path / "pages.html")
    text = html.unescape(file.read_text(encoding="utf-8"))
    assert [f"<h2>{heading}</h2>" in text for heading, _ in requests] == [True] * 5
    assert text.count('class="placement"') >= 10
