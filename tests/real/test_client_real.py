"""The client against the real server: both of them, batches, cancellation, a restart under load, the fallback."""

import asyncio
from collections import Counter

import pytest
from endcap_client import (
    AsyncClient,
    Client,
    EndcapError,
    Hedge,
    InvalidArgument,
    ModelError,
    Options,
    Page,
    Refused,
    SearchRequest,
    SearchResult,
    StorefrontRequest,
)
from endcap_server.launch import Server
from endcap_server.shop.store import ItemStore
from waiting import HANGS_S, wait_for

TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def ids(store: ItemStore) -> list[str]:
    return [store.product_ids[row] for row in range(0, 400, 7)]


def plain(page: Page) -> list[tuple[str, list[str]]]:
    return [(each.theme, [product.product_id for product in each.products]) for each in page.placements]


def test_both_clients_get_the_same_answers(server: Server, ids: list[str]) -> None:
    async def ask() -> tuple[bool, Page, SearchResult]:
        async with AsyncClient(server.grpc_address, timeout_s=TIMEOUT_S) as client:
            page, found = await asyncio.gather(
                client.storefront(ids[:3], placements=2, explain=True), client.search("lamp", products=5)
            )
            return await client.ready(), page, found

    with Client(server.grpc_address, timeout_s=TIMEOUT_S) as client:
        assert client.ready()
        page = client.storefront(ids[:3], placements=2, explain=True)
        found = client.search("lamp", products=5)
    ready, same_page, same_found = asyncio.run(ask())
    assert ready
    assert len(page.placements) == 2
    assert plain(same_page) == plain(page)
    assert same_found.products == found.products
    signals = page.placements[0].products[0].signals
    assert list(signals) == list(page.status.signals)
    assert {"margin", "relevance", "ranker"} <= set(signals)


def test_batches(server: Server, ids: list[str]) -> None:
    requests = [StorefrontRequest(history=ids[n : n + 2], placements=1, products=4) for n in range(6)]
    requests[2] = StorefrontRequest(products=0)
    queries = ["lamp", "tea", "desk", "rain coat"]
    with Client(server.grpc_address, timeout_s=TIMEOUT_S) as client:
        pages = client.storefronts(requests, concurrency=3)
        found = client.searches([SearchRequest(query, products=3) for query in queries])
    wrong = pages.pop(2)
    assert isinstance(wrong, InvalidArgument)
    assert (wrong.tensor, wrong.got) == ("PRODUCTS", "0")
    assert all(isinstance(page, Page) and len(page.placements) == 1 for page in pages)
    assert [result.query for result in found if isinstance(result, SearchResult)] == queries


def test_batches_of_the_asyncio_client(server: Server, ids: list[str]) -> None:
    async def ask() -> list[Page | EndcapError]:
        async with AsyncClient(server.grpc_address, timeout_s=TIMEOUT_S) as client:
            requests = [StorefrontRequest(history=[each], placements=1, products=4) for each in ids[:6]]
            return await client.storefronts(requests, concurrency=3)

    assert all(isinstance(page, Page) for page in asyncio.run(ask()))


def test_hedging_over_two_names_of_one_server(server: Server) -> None:
    addresses = [server.grpc_address, server.grpc_address.replace("127.0.0.1", "localhost")]
    options = Options(timeout_s=TIMEOUT_S, hedge=Hedge(quantile=0.5, min_calls=3))
    results = []
    with Client(addresses, options=options) as client:
        # Half of all calls take longer than the median of the earlier ones; which ones is the machine's affair.
        for number in range(200):
            results.append(client.search(f"lamp {number}", products=3))
            if client.counts.hedges:
                break
        assert client.counts.hedges >= 1
    assert all(result.products for result in results)


def test_the_fallback(server: Server, ids: list[str]) -> None:
    static = "static page"
    with Client(server.grpc_address, timeout_s=TIMEOUT_S) as client:
        assert isinstance(client.storefront_or(static, ids[:2], placements=1, products=3), Page)
        assert client.storefront_or(static, session=["never asked before"], timeout_s=0.001) == static
        with pytest.raises(InvalidArgument, match="PLACEMENTS"):
            client.storefront_or(static, placements=99)
        assert sum(client.counts.fallbacks.values()) == 1


def test_cancelling_reaches_the_server(other_server: Server) -> None:
    async def ask() -> None:
        async with AsyncClient(other_server.grpc_address, timeout_s=TIMEOUT_S) as client:
            task = asyncio.create_task(client.storefront(session=["to be called off"], placements=16, products=100))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await client.search("lamp", products=2)).products

    asyncio.run(ask())

    def logged(words: str) -> bool:
        return words in other_server.log.path.read_text(encoding="utf-8", errors="replace")

    wait_for(lambda: logged("Cancellation notification received for ModelInferHandler"), "the cancellation is heard of")
    wait_for(lambda: logged("Issuing cancellation"), "what it has begun is cancelled")


def test_a_restart_under_load(other_server: Server) -> None:
    """Callers see refusals while nobody listens, nothing else, and answers again without doing anything."""
    answers: Counter[str] = Counter()
    stop = False

    async def caller(client: AsyncClient) -> None:
        while not stop:
            try:
                found = await client.search("lamp", products=2)
                answers["after" if answers["Refused"] else "before"] += bool(found.products)
            except EndcapError as error:
                answers[type(error).__name__] += 1
                await asyncio.sleep(0.05)

    async def until_there_are(name: str, count: int) -> None:
        async with asyncio.timeout(HANGS_S):
            while answers[name] < count:
                await asyncio.sleep(0.05)

    async def ask() -> None:
        nonlocal stop
        async with AsyncClient(other_server.grpc_address, timeout_s=TIMEOUT_S) as client, asyncio.TaskGroup() as group:
            callers = [group.create_task(caller(client)) for _ in range(4)]
            await until_there_are("before", 20)
            await asyncio.to_thread(other_server.stop, grace_s=3.0)
            await until_there_are("Refused", 8)
            await asyncio.to_thread(other_server.start)
            try:
                await until_there_are("after", 20)
            finally:
                stop = True
                await asyncio.wait(callers)

    asyncio.run(ask())
    # While it drains, the server itself says that it is stopping.
    assert set(answers) <= {"before", "after", Refused.__name__, ModelError.__name__}
