"""The finished build of a small shop, and servers that run on it."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from endcap_client import Client
from endcap_server.launch import Server, ServerOptions
from endcap_server.shop.store import ItemStore
from serving import start_again

from benchmarks.apply_bench import Bench, bench

BUILDS = Path(__file__).resolve().parents[2] / "build"
SMALL_BUILD: dict[str, dict[str, Any]] = {
    # A month is kept aside, so that pages can be measured by what was bought then.
    "catalogue": {"events_until": "2026-09-30"},
    "merchandising": {"pages": 700, "keyword_choices": 500, "fit_themes": 150},
    "teacher": {"max_pairs": 80, "layers": 1, "epochs": 1, "held_out_share": 0.04, "train_embeddings": False},
    "cross_encoder": {"max_pairs": 80, "mined_queries": 4, "layers": 1, "train_embeddings": False},
    "theme_llm": {"hidden": 128, "layers": 2, "heads": 2, "train_tokens": 50_000, "held_out": 8},
    "keyword_llm": {"hidden": 96, "layers": 1, "heads": 2, "train_tokens": 20_000, "held_out": 8},
    "ranker": {"trees": 20},
    # Some keywords and kinds have postings, others are scored online.
    "postings": {"products": 12, "kind_products": 12, "most_pairs": 2000, "estimate_pairs": 100},
    # Models trained for seconds do not always beat simple things, and tests want to see them serve.
    "gates": {"mode": "warn"},
}
"""Settings that build a small shop in about two minutes: the same code as the demo's, trained for less long."""

_SHARED: list[Server] = []


@pytest.fixture(scope="session")
def build(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A finished build of a small demo catalogue; kept in build/test, and made again only when something changed."""
    made_once("small build", lambda _: make_small_build())
    return BUILDS / "test"


def make_small_build() -> None:
    """Make ``build/test`` and its catalogue, or what has changed of them."""
    # Most processes find the build made, and need none of this.
    from endcap_builders.catalogue.demo import generate_demo
    from endcap_builders.pipeline import Pipeline
    from endcap_builders.steps import all_steps

    catalogue = BUILDS / "catalogues/test"
    if not (catalogue / "products.parquet").exists():
        generate_demo(catalogue, products=1500, shoppers=400, queries=3000)
    Pipeline(all_steps(), BUILDS / "test", catalogue, overrides=SMALL_BUILD).run()


@pytest.fixture(scope="session")
def store(build: Path) -> ItemStore:
    """The shop's products."""
    return ItemStore.open(build)


@pytest.fixture(scope="session")
def server(build: Path) -> Iterator[Server]:
    """The real server on the small build, on free ports. Most tests share it, and leave it as they found it."""
    with Server(ServerOptions(build=build, grpc_port=0, http_port=0, metrics_port=0)) as running:
        _SHARED.append(running)
        yield running
        _SHARED.clear()


@pytest.fixture(autouse=True)
def _shared_server_runs() -> None:
    """A test that ended the shared server, or met a crash of it, fails alone."""
    for server in _SHARED:
        start_again(server)


@pytest.fixture(scope="session")
def other_server(build: Path) -> Iterator[Server]:
    """A second server, for tests that compare two or that stop one; its log tells what becomes of requests."""
    options = ServerOptions(build=build, grpc_port=0, http_port=0, metrics_port=0, verbose=True)
    with Server(options) as running:
        yield running


def small_bench(build: Path) -> AbstractContextManager[Bench]:
    """A server on a copy of the build that may be edited and rolled out, under a constant stream of requests."""
    # Requests compete with the rollouts for the CPU: a constant stream need not be a dense one.
    return bench(build, clients=2, pause_s=0.4)


@pytest.fixture(scope="session")
def _shared_rollouts(build: Path) -> Iterator[Bench]:
    with small_bench(build) as running:
        running.traffic.pause()
        yield running


@pytest.fixture(scope="module")
def rollouts(_shared_rollouts: Bench) -> Iterator[Bench]:
    """The same server for several modules: they roll out copies of what is live, and leave its source as it is."""
    traffic = _shared_rollouts.traffic
    traffic.seen.clear()
    traffic.failed.clear()
    traffic.resume()
    yield _shared_rollouts
    traffic.pause()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client of the shared server."""
    with Client(server.grpc_address, timeout_s=20) as connected:
        yield connected


@pytest.fixture(scope="session")
def new_history(store: ItemStore) -> Callable[[], list[str]]:
    """Each call gives a history that nobody has asked with, so that no answer comes from a cache."""
    numbers = itertools.count()

    def following() -> list[str]:
        number = next(numbers)
        rows = (number, number * 13 + 5, number * 29 + 11 + number // len(store))
        return [store.product_ids[row % len(store)] for row in rows]

    return following
