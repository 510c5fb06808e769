"""A refreshed build goes live on the real server, and answers as a build of the same catalogue without any reuse."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import BUILDS
from endcap_builders.manifest import read_manifest
from endcap_builders.refresh import kept_models, refresh
from endcap_builders.reuse import FOLDER as REUSE
from endcap_client import Client
from endcap_client.cli import main
from endcap_server.lint import lint_repository
from endcap_server.shop.postings import FILES as POSTINGS_FILES
from endcap_server.shop.postings import Postings
from endcap_server.shop.store import ItemStore

from benchmarks.apply_bench import FAST, OTHER_PAGES, Bench
from benchmarks.apply_sources import copy_build
from benchmarks.refresh import NEW, RENAMED, changed_catalogue, refreshing

INDEXES = ("index/products.faiss", "index/keywords.faiss")
"""Of the vectors, which differ in their last digits with the size of the batches in which texts are encoded."""
AFFINITY = "topics/topic_affinity.npy"
"""Derived from vectors and events."""
POSTINGS = tuple(path for path in POSTINGS_FILES if not path.endswith("rows.npy"))
"""Scores of pairs; in another micro-batch, one may differ in the last digit."""
VECTORS = ("store/vectors.npy", "store/keyword_vectors.npy", AFFINITY, *INDEXES)
POSTINGS = tuple(path for path in POSTINGS_FILES if not path.endswith("rows.npy"))
"""Scores of pairs, which differ likewise with the pairs of their micro-batches."""
SERVED = ("cross_encoder", "theme_llm", "keyword_llm", "ranker")


@dataclass(frozen=True)
class Builds:
    """A refreshed build, one of the same models whose tables were made without reuse, and the catalogue of both."""

    refreshed: Path
    anew: Path
    catalogue: Path
    before: Path


@pytest.fixture(scope="module")
def builds(rollouts: Bench) -> Builds:
    catalogue = rollouts.folder / "catalogue"
    changed_catalogue(BUILDS / "catalogues/test", catalogue, 0.01)
    refreshed = copy_build(rollouts.source, rollouts.folder / "refreshed")
    assert main(["build", "--refresh", "--catalogue", str(catalogue), "--out", str(refreshed)]) == 0
    anew = copy_build(rollouts.source, rollouts.folder / "anew")
    refresh(refreshing(anew, catalogue), force=True)
    return Builds(refreshed, anew, catalogue, rollouts.source)


@pytest.fixture(autouse=True)
def nothing_failed(rollouts: Bench) -> Iterator[None]:
    yield
    assert rollouts.traffic.failed == []
    assert rollouts.traffic.mixed() == []


def test_every_file_is_as_without_reuse(builds: Builds) -> None:
    one, two = (read_manifest(build)["steps"] for build in (builds.refreshed, builds.anew))
    assert one["store"]["figures"]["computed"]["products"] == 10
    assert two["store"]["figures"]["computed"]["products"] == one["store"]["figures"]["products"]
    differing = [
        f"{step}/{name}"
        for step, entry in one.items()
        # A segment of the words' index has a random name.
        for name, digest in entry["files"].items()
        if step != "lexical" and not name.startswith(REUSE) and two[step]["files"][name] != digest
    ]
    assert set(differing) <= {*VECTORS, *POSTINGS}
    stores = ItemStore.open(builds.refreshed), ItemStore.open(builds.anew)
    assert one["postings"]["figures"]["computed"] < two["postings"]["figures"]["computed"] / 4
    carried, scored = Postings.open(builds.refreshed, stores[0]), Postings.open(builds.anew, stores[1])
    for name in ("logits", "kind_logits"):
        np.testing.assert_allclose(getattr(carried, name), getattr(scored, name), atol=2e-2)
    for name in ("vectors", "keyword_vectors"):
        first, second = (getattr(store, name).astype(np.float32) for store in stores)
        np.testing.assert_allclose(first, second, atol=1e-3)
    np.testing.assert_allclose(np.load(builds.refreshed / AFFINITY), np.load(builds.anew / AFFINITY), rtol=1e-2)


def test_models_are_kept_and_lint_accepts_them(builds: Builds) -> None:
    before, after = (read_manifest(build) for build in (builds.before, builds.refreshed))
    for name in SERVED:
        assert after["steps"][name]["files"] == before["steps"][name]["files"]
        assert after["steps"][name]["fingerprint"] == before["steps"][name]["fingerprint"]
    assert {"cross_encoder", "theme_llm", "ranker"} <= kept_models(after).keys()
    assert lint_repository(builds.refreshed, ["cpu"]) == []


def test_it_goes_live(rollouts: Bench, builds: Builds) -> None:
    old, new = ItemStore.open(builds.before), ItemStore.open(builds.refreshed)
    ids = list(old.product_ids), list(new.product_ids)
    removed = next(each for each in ids[0] if each not in ids[1])
    removed_title = old.titles[ids[0].index(removed)]
    added = [each for each in ids[1] if each.startswith(NEW)]
    renamed = [row for row, title in enumerate(new.titles) if title.startswith(RENAMED)]
    processes = rollouts.processes()
    with Client(rollouts.server.grpc_address, timeout_s=20) as client:
        assert removed in _found(client, removed_title)
        assert not set(added) & set(_found(client, new.titles[ids[1].index(added[0])]))
        outcome = rollouts.apply(builds.refreshed, *FAST, *OTHER_PAGES)
        assert outcome.code == 0, outcome.output
        for product_id in added:
            assert _found(client, product_id)[0] == product_id
            assert product_id in _found(client, new.titles[ids[1].index(product_id)])
        for row in renamed:
            assert ids[1][row] in _found(client, new.titles[row])
        assert removed not in _found(client, removed_title)
        assert removed not in _found(client, removed)
        page = client.storefront(history=[removed, added[0]], placements=2, products=6)
        assert page.placements
        assert page.status.versions["catalogue"] == read_manifest(builds.refreshed)["catalogue"]["digest"][:16]
    same = {name: pid for name, pid in rollouts.processes().items() if name in ("theme_llm", "keyword_llm")}
    assert same == {name: processes[name] for name in ("theme_llm", "keyword_llm")}, "kept models were not loaded again"


def test_answers_are_as_without_reuse(rollouts: Bench, builds: Builds) -> None:
    before = rollouts.answers()
    outcome = rollouts.apply(builds.anew, *FAST, *OTHER_PAGES)
    assert outcome.code == 0, outcome.output
    assert rollouts.answers() == before


def test_events_of_removed_products_are_left_out(builds: Builds) -> None:
    products = pl.read_parquet(builds.catalogue / "products.parquet")
    figures = read_manifest(builds.refreshed)["steps"]["catalogue"]["figures"]
    assert figures["products"] == products.height
    assert any("events.parquet: dropped" in warning for warning in figures["warnings"])


def _found(client: Client, query: str) -> list[str]:
    return [each.product_id for each in client.search(query, products=20).products]
