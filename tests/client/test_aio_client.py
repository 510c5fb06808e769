"""What only the asyncio client has: tasks that are cancelled, many calls on one loop."""

import asyncio
import inspect

import pytest
from endcap_client import AsyncClient, Client, EndcapError, Hedge, Options, Page, StorefrontRequest
from fake_server import Service, serving


def public(kind) -> dict:
    return {name: member for name, member in inspect.getmembers(kind) if not name.startswith("_")}


def test_both_clients_have_the_same_names_and_arguments():
    ours, theirs = public(AsyncClient), public(Client)
    assert set(ours) == set(theirs)
    for name, member in theirs.items():
        if inspect.isfunction(member):
            assert str(inspect.signature(ours[name])) == str(inspect.signature(member)), name
            assert inspect.iscoroutinefunction(ours[name]), name
            assert ours[name].__doc__, name
    assert inspect.signature(AsyncClient) == inspect.signature(Client)


def run(coroutine):
    with asyncio.Runner() as runner:
        return runner.run(coroutine)


async def until_asked(service: Service, count: int = 1) -> None:
    while len(service.requests) < count:
        await asyncio.sleep(0.01)


def test_cancelling_the_task_cancels_the_call_on_the_server(service, address):
    service.delay_s = 10.0

    async def ask() -> None:
        async with AsyncClient(address, timeout_s=30) as client:
            task = asyncio.create_task(client.storefront())
            await until_asked(service)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(service.cancelled.wait, 5)
            service.delay_s = 0.0
            assert (await client.storefront()).placements, "the client is none the worse for it"

    run(ask())


def test_a_timeout_of_the_caller_cancels_too(service, address):
    service.delay_s = 10.0

    async def ask() -> None:
        async with AsyncClient(address, timeout_s=30) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await client.storefront_or("default")
            assert await asyncio.to_thread(service.cancelled.wait, 5)
            assert client.counts.fallbacks == {}

    run(ask())


def test_cancelling_a_hedged_call_cancels_both(service, address):
    second = Service()
    second.outputs = service.outputs

    async def ask(addresses: list[str]) -> None:
        options = Options(timeout_s=30, hedge=Hedge(min_calls=2, min_ms=20))
        async with AsyncClient(addresses, options=options) as client:
            for _ in range(4):
                await client.storefront()
            service.requests.clear()
            second.requests.clear()
            service.delay_s = second.delay_s = 10.0
            task = asyncio.create_task(client.storefront())
            await until_asked(service)
            await until_asked(second)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(service.cancelled.wait, 5)
            assert await asyncio.to_thread(second.cancelled.wait, 5)

    with serving(second) as other:
        run(ask([address, other]))


def test_cancelling_a_batch_cancels_what_is_under_way_and_sends_no_more(service, address):
    service.delay_s = 10.0

    async def ask() -> None:
        async with AsyncClient(address, timeout_s=30) as client:
            task = asyncio.create_task(client.storefronts([StorefrontRequest()] * 20, concurrency=3))
            await until_asked(service, 3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(service.cancelled.wait, 5)
            await asyncio.sleep(0.2)
            assert len(service.requests) == 3

    run(ask())


def test_many_calls_on_one_loop(service, address):
    service.delay_s = 0.5

    async def ask() -> list[Page]:
        async with AsyncClient(address) as client:
            return await asyncio.gather(*(client.storefront() for _ in range(10)))

    assert len(run(ask())) == 10
    assert service.most_at_once == 10


def test_closing_ends_what_is_under_way(service, address):
    service.delay_s = 10.0

    async def ask() -> None:
        client = AsyncClient(address, timeout_s=30)
        task = asyncio.create_task(client.storefront())
        await until_asked(service)
        await client.close()
        with pytest.raises(EndcapError, match="closed"):
            await task
        with pytest.raises(EndcapError, match="closed"):
            await client.storefront()

    run(ask())


def test_a_client_may_be_made_before_the_loop_runs(service, address):
    client = AsyncClient(address)

    async def ask() -> Page:
        async with client:
            return await client.storefront()

    assert run(ask()).placements
