"""A late or dead engine never costs a shopper the page: the answer comes within its budget, and STATUS says so."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from endcap_client import Client, Page
from endcap_server.launch import Server
from endcap_server.shop.store import ItemStore
from tritonclient import grpc

pytestmark = pytest.mark.server

BUDGET_MS = 1500
"""For a machine that runs other things: the promise is 'within the budget', the test's clock is not a benchmark."""


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.grpc_address, timeout_s=20) as client:
        yield client


@pytest.fixture
def control(server: Server) -> Iterator[grpc.InferenceServerClient]:
    with server.control() as control:
        yield control


@pytest.fixture
def history(build: Path) -> Callable[[int], list[str]]:
    """Histories nobody has asked for yet, so that no answer comes from the cache."""
    store = ItemStore.open(build)
    return lambda number: [store.product_ids[row % len(store)] for row in (number, number + 201, number + 402)]


def stub(server: Server, model: str) -> int:
    """Process id of a model's Python process."""
    assert server.process is not None
    pattern = f"triton_python_backend_stub .*/{model}/1/model.py"
    found = subprocess.run(["pgrep", "-g", str(server.process.pid), "-f", pattern], capture_output=True, text=True)
    return int(found.stdout.split()[0])


def assert_full(page: Page) -> None:
    assert len(page.placements) == 4
    assert all(placement.theme and placement.products for placement in page.placements)


def assert_generates_again(client: Client, history: Callable[[int], list[str]], stage: str) -> None:
    """An engine whose process was stopped is loaded again once it goes on, which takes some seconds."""
    until = time.monotonic() + 20
    sources = []
    while time.monotonic() < until and "generated" not in sources:
        sources.append(client.storefront(history(len(sources)), budget_ms=5000).status.stages[stage].source)
    assert sources[-1] == "generated"


@pytest.mark.parametrize(("engine", "stage"), [("theme_llm", "theme"), ("keyword_llm", "keywords")])
def test_stopped_llm(
    client: Client, control: grpc.InferenceServerClient, history: Callable[[int], list[str]], engine: str, stage: str
) -> None:
    shopper = history(len(engine))
    control.unload_model(engine)
    try:
        page = client.storefront(shopper, budget_ms=BUDGET_MS)
    finally:
        control.load_model(engine)
    assert_full(page)
    assert page.status.stages[stage].source == "fallback"
    assert page.status.stages[stage].reason
    recovered = client.storefront(shopper, budget_ms=20_000)
    assert recovered.status.stages[stage].source == "generated", "a fallback must not be served from the cache"


@pytest.mark.parametrize(("engine", "stage"), [("theme_llm", "theme"), ("keyword_llm", "keywords")])
def test_slow_llm(server: Server, client: Client, history: Callable[[int], list[str]], engine: str, stage: str) -> None:
    process = stub(server, engine)
    os.kill(process, signal.SIGSTOP)
    try:
        page = client.storefront(history(50 + len(engine)), budget_ms=BUDGET_MS)
    finally:
        os.kill(process, signal.SIGCONT)
    assert_full(page)
    assert page.status.stages[stage].source == "fallback"
    assert "theme" in page.status.stages
    assert_generates_again(client, lambda number: history(1000 + 50 * len(engine) + number), stage)


def test_llm_that_hangs_for_long(server: Server, client: Client, history: Callable[[int], list[str]]) -> None:
    process = stub(server, "theme_llm")
    os.kill(process, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(2) as pool:
            pages = list(pool.map(lambda number: client.storefront(history(300 + number), budget_ms=200), range(60)))
        page = client.storefront(history(500), budget_ms=BUDGET_MS)
    finally:
        os.kill(process, signal.SIGCONT)
    assert_full(page)
    assert len(pages) == 60, "what hangs must not hold up everything else"
    assert "earlier requests are unanswered" in page.status.stages["theme"].reason
    assert "unanswered" not in page.status.stages["keywords"].reason
    assert_generates_again(client, lambda number: history(600 + number), "theme")


@pytest.mark.parametrize(("engine", "stage"), [("cross_encoder", "rerank"), ("nearest", "retrieval")])
def test_dead_engine(
    client: Client, control: grpc.InferenceServerClient, history: Callable[[int], list[str]], engine: str, stage: str
) -> None:
    control.unload_model(engine)
    try:
        page = client.storefront(history(100 + len(engine)), budget_ms=BUDGET_MS)
        result = client.search("lamp", budget_ms=BUDGET_MS)
    finally:
        control.load_model(engine)
    assert_full(page)
    assert result.products
    assert page.status.stages[stage].source == "fallback"
    assert result.status.stages[stage].source == "fallback"
