"""Callers that leave early, at any moment and on either protocol: nobody's answer differs for it afterwards."""

import asyncio
import http.client
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from endcap_client import AsyncClient, Client
from endcap_client.errors import EndcapError
from endcap_server.launch import Server
from endcap_server.shop.store import ItemStore
from serving import in_flight
from waiting import wait_for

WAITS_MS = (1, 2, 3, 5, 8, 13, 20, 35, 60, 100, 160, 220, 300)
BUDGET_MS = 20_000
Asked = tuple[str, list[str]]
"""storefront and a history, or search and a query."""


@pytest.fixture(scope="module")
def requests(store: ItemStore) -> list[Asked]:
    """Requests that cost every stage something: a new shopper, shoppers with a history, searches."""
    rows = [[(number * 97 + step * 211) % len(store) for step in range(3)] for number in range(len(WAITS_MS) - 1)]
    histories = [[], *([store.product_ids[row] for row in each] for each in rows)]
    queries = [[store.keywords[number % len(store.keywords)]] for number in range(0, 4 * len(WAITS_MS), 4)]
    return [("storefront", each) for each in histories] + [("search", each) for each in queries]


def page(client: Client, asked: Asked) -> tuple[list[Any], tuple[str, ...]]:
    """What a caller is shown, and which stages degraded."""
    kind, values = asked
    if kind == "search":
        found = client.search(values[0], products=6, budget_ms=BUDGET_MS)
        return [[each.product_id for each in found.products]], found.status.degraded
    shown = client.storefront(values, placements=2, products=6, budget_ms=BUDGET_MS)
    placements = [(each.theme, *(product.product_id for product in each.products)) for each in shown.placements]
    return placements, shown.status.degraded


async def leave_grpc(address: str, asked: Sequence[Asked], waits_ms: Sequence[int]) -> None:
    """Ask for all at once, and leave each after its time."""
    async with AsyncClient(address, timeout_s=20) as client:

        async def leave(each: Asked, wait_ms: int) -> None:
            kind, values = each
            call = client.search(values[0], products=6) if kind == "search" else client.storefront(values, placements=2)
            task = asyncio.create_task(call)
            await asyncio.sleep(wait_ms / 1e3)
            task.cancel()
            with suppress(asyncio.CancelledError, EndcapError):
                await task

        await asyncio.gather(*(leave(each, wait_ms) for each, wait_ms in zip(asked, waits_ms, strict=True)))


def leave_http(address: str, asked: Asked, wait_ms: int) -> None:
    """Ask over HTTP and close the connection."""
    kind, values = asked
    name, shape = ("QUERY", [1]) if kind == "search" else ("HISTORY", [len(values)])
    body = json.dumps({"inputs": [{"name": name, "datatype": "BYTES", "shape": shape, "data": values}]})
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("POST", f"/v2/models/{kind}/infer", body)
    time.sleep(wait_ms / 1e3)
    connection.close()


def abuse(server: Server, requests: Sequence[Asked], shift: int) -> None:
    """Leave every request on both protocols, at a time that differs with `shift`, many at once."""
    waits = [WAITS_MS[(number + shift) % len(WAITS_MS)] for number in range(len(requests))]
    asyncio.run(leave_grpc(server.grpc_address, requests, waits))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(leave_http, [server.http_address] * len(requests), requests, waits))


def test_no_later_request_differs_from_one_on_a_fresh_server(
    pytestconfig: pytest.Config, server: Server, other_server: Server, requests: list[Asked]
) -> None:
    with Client(server.grpc_address, timeout_s=30) as fresh:
        expected = [page(fresh, asked) for asked in requests]
    with Client(other_server.grpc_address, timeout_s=30) as client:
        # Nothing is kept at first; then what was whole is.
        for shift in (0, 4, 9) if pytestconfig.getoption("--long") else (4,):
            abuse(other_server, requests, shift)
            wait_for(lambda: in_flight(client) == 1, "nothing in flight but the request that asks")
        assert [page(client, asked) for asked in requests] == expected
        abuse(other_server, requests, 2)  # all is kept
        wait_for(lambda: in_flight(client) == 1, "nothing in flight but the request that asks")
        assert [page(client, asked) for asked in requests] == expected
