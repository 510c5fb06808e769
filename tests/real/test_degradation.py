"""A late or dead engine never costs a shopper the page: the answer comes within its budget, and STATUS says so."""

import itertools
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from endcap_client import Client, Page
from endcap_client.errors import EndcapError
from endcap_server.launch import Server
from serving import Traffic, process_of, start_again
from tritonclient import grpc
from waiting import wait_for

BUDGET_MS = 1500
"""For a machine that runs other things: the promise is 'within the budget', the test's clock is not a benchmark."""


@pytest.fixture
def control(server: Server) -> Iterator[grpc.InferenceServerClient]:
    with server.control() as control:
        yield control


def process(server: Server, model: str) -> int:
    """Process id of a model."""
    assert server.process is not None
    found = process_of(server.process.pid, model)
    assert found is not None
    return found


def assert_full(page: Page) -> None:
    assert len(page.placements) == 4
    assert all(placement.theme and placement.products for placement in page.placements)


def assert_generates_again(server: Server, client: Client, history: Callable[[], list[str]], stage: str) -> None:
    """An engine whose process was stopped is loaded again once it goes on, which takes some seconds."""

    def generates() -> bool:
        start_again(server)
        try:
            # Cached, if an answer that was kept came too late for its caller.
            return client.storefront(history()).status.stages[stage].source in ("generated", "cached")
        except EndcapError:
            return False

    wait_for(generates, f"generated {stage}")


@pytest.mark.parametrize(("engine", "stage"), [("theme_llm", "theme"), ("keyword_llm", "keywords")])
def test_stopped_llm(
    server: Server,
    client: Client,
    control: grpc.InferenceServerClient,
    new_history: Callable[[], list[str]],
    engine: str,
    stage: str,
) -> None:
    # Several: what a small model writes for one shopper may all be refused.
    shoppers = [new_history() for _ in range(8)]
    control.unload_model(engine)
    try:
        pages = [client.storefront(each, budget_ms=BUDGET_MS) for each in shoppers]
    finally:
        control.load_model(engine)
    for page in pages:
        assert_full(page)
        assert page.status.stages[stage].source == "fallback"
        assert page.status.stages[stage].reason
    # The same shoppers: a fallback must not be served from the cache.
    assert_generates_again(server, client, itertools.cycle(shoppers).__next__, stage)


@pytest.mark.parametrize(("engine", "stage"), [("theme_llm", "theme"), ("keyword_llm", "keywords")])
def test_slow_llm(
    server: Server, client: Client, new_history: Callable[[], list[str]], engine: str, stage: str
) -> None:
    stopped = process(server, engine)
    os.kill(stopped, signal.SIGSTOP)
    try:
        page = client.storefront(new_history(), budget_ms=BUDGET_MS)
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert_full(page)
    assert page.status.stages[stage].source == "fallback"
    assert "theme" in page.status.stages
    assert_generates_again(server, client, new_history, stage)


def test_llm_that_hangs_for_long(server: Server, client: Client, new_history: Callable[[], list[str]]) -> None:
    def ask(client: Client, _: int) -> Page:
        return client.storefront(new_history(), budget_ms=BUDGET_MS)

    def spared(page: Page) -> bool:
        return "earlier requests are unanswered" in page.status.stages["theme"].reason

    stopped = process(server, "theme_llm")
    os.kill(stopped, signal.SIGSTOP)
    try:
        with Traffic(server.grpc_address, 4, ask) as traffic:
            # Triton gives up one request a second to a process that is stopped; more have to come.
            wait_for(lambda: any(map(spared, list(traffic.answers))), "a page that does not ask what hangs")
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert traffic.errors == [], "what hangs must not hold up everything else"
    page = next(filter(spared, traffic.answers))
    assert_full(page)
    assert "unanswered" not in page.status.stages["keywords"].reason
    assert_generates_again(server, client, new_history, "theme")


@pytest.mark.parametrize(("engine", "stage"), [("cross_encoder", "rerank"), ("nearest", "retrieval")])
def test_dead_engine(
    client: Client, control: grpc.InferenceServerClient, new_history: Callable[[], list[str]], engine: str, stage: str
) -> None:
    control.unload_model(engine)
    try:
        page = client.storefront(new_history(), budget_ms=BUDGET_MS)
        result = client.search("lamp", budget_ms=BUDGET_MS)
    finally:
        control.load_model(engine)
    assert_full(page)
    assert result.products
    assert page.status.stages[stage].source == "fallback"
    assert result.status.stages[stage].source == "fallback"
