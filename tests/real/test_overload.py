"""More clients than the server can serve: it answers some, refuses the others by name, and is itself again after."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from endcap_client import Client, Page
from endcap_client.errors import Overloaded
from endcap_server.launch import Server
from endcap_server.serving.processes import model_processes
from endcap_server.shop.store import ItemStore
from serving import Traffic
from waiting import wait_for

BUDGET_MS = 1500


@pytest.fixture(scope="module")
def page(build: Path) -> Callable[[Client, int], Page]:
    """Ask for a page that nobody has asked for yet."""
    store = ItemStore.open(build)

    def ask(client: Client, number: int) -> Page:
        rows = (number % len(store), (number * 31 + 7) % len(store), (number * 17 + 3) % len(store))
        return client.storefront([store.product_ids[row] for row in rows], placements=2, budget_ms=BUDGET_MS)

    return ask


def test_two_clients_are_never_refused(server: Server, page: Callable[[Client, int], Page]) -> None:
    with Traffic(server.grpc_address, 2, page) as traffic:
        time.sleep(2)
    assert traffic.refused == []
    assert traffic.errors == []
    assert traffic.answers


def test_overload(server: Server, page: Callable[[Client, int], Page]) -> None:
    assert server.process is not None
    before = model_processes(server.process.pid)
    with Traffic(server.grpc_address, 32, page) as traffic:
        time.sleep(4)
    assert traffic.errors == [], "who is not served is told so, and nothing else goes wrong"
    assert traffic.answers
    assert traffic.refused
    messages = [str(refusal) for refusal in traffic.refused]
    assert all("requests in flight" in message and "try again later" in message for message in messages)
    with Client(server.grpc_address, timeout_s=5) as client:
        numbers = iter(range(900_000, 1_000_000))

        def full() -> bool:
            try:
                answer = page(client, next(numbers))
            except Overloaded:
                return False
            return not answer.status.degraded

        wait_for(full, "a page that is not degraded, after the overload")
    assert model_processes(server.process.pid) == before, "no process was lost"
