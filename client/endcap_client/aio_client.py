"""The asyncio client: the same methods as `Client`, as coroutines."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from grpc import aio

from endcap_client.calls import METHODS, MOST_SHADOWS, Calls, Outcome, Pause, Receive, Send, Shadow, Steps
from endcap_client.client import DEFAULT_ADDRESS
from endcap_client.errors import FALL_BACK, EndcapError
from endcap_client.options import Metadata, Options, checked_addresses, checked_concurrency, checked_options
from endcap_client.policy import Counts
from endcap_client.requests import (
    NO_METADATA,
    RulesLike,
    SearchArguments,
    SearchRequest,
    StorefrontArguments,
    StorefrontRequest,
)
from endcap_client.types import Page, SearchResult

T = TypeVar("T")
R = TypeVar("R")
D = TypeVar("D")


class AsyncClient:
    """Asks endcap servers for storefronts and searches over gRPC, from an event loop.

    Cancelling the task that awaits a call cancels the call. The connections belong to the event loop of the first call,
    so a client works in one loop; all its tasks can share it.

    Args:
        address: HOST:PORT of a server's gRPC port, or several of them; calls go to each in turn.
        timeout_s: deadline of a call that has none, seconds; None: that of the options.
        options: everything else.
    """

    def __init__(
        self,
        address: str | Sequence[str] = DEFAULT_ADDRESS,
        *,
        timeout_s: float | None = None,
        options: Options | None = None,
    ):
        self.addresses = checked_addresses(address)
        self.options = checked_options(options, timeout_s)
        self._credentials = self.options.tls.credentials() if self.options.tls is not None else None
        self._calls = Calls(self.addresses, self.options)
        self._channels: list[aio.Channel] = []
        self._methods: list[dict[str, Any]] = []
        self._closed = False
        self._shadows: set[Any] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections and cancel running calls; the client cannot be used afterwards."""
        self._closed = True
        for channel in self._channels:
            await channel.close()

    @property
    def counts(self) -> Counts:
        """Counts of this client so far."""
        return self._calls.policy.counters.snapshot()

    async def storefront(
        self,
        history: Sequence[str] = (),
        session: Sequence[str] = (),
        rules: RulesLike = None,
        placements: int = 4,
        products: int = 12,
        timeout_s: float | None = None,
        budget_ms: int | None = None,
        explain: bool = False,
        metadata: Metadata = NO_METADATA,
        shopper: str = "",
    ) -> Page:
        """Return a shopper's themed page; arguments and errors as in `Client.storefront`."""
        request = StorefrontRequest(
            history, session, rules, placements, products, timeout_s, budget_ms, explain, metadata, shopper
        )
        return await self._run(self._calls.storefront(request))

    async def search(
        self,
        query: str,
        history: Sequence[str] = (),
        rules: RulesLike = None,
        products: int = 12,
        timeout_s: float | None = None,
        budget_ms: int | None = None,
        explain: bool = False,
        metadata: Metadata = NO_METADATA,
        shopper: str = "",
    ) -> SearchResult:
        """Return the products that answer a query; arguments and errors as in `Client.search`."""
        request = SearchRequest(query, history, rules, products, timeout_s, budget_ms, explain, metadata, shopper)
        return await self._run(self._calls.search(request))

    async def storefront_or(
        self, default: D, history: Sequence[str] = (), **arguments: Unpack[StorefrontArguments]
    ) -> Page | D:
        """Return `storefront(history, ...)`, or the default when the service cannot answer in time.

        As in `Client.storefront_or`; cancellation of the task does not return the default.
        """
        return await self._or(default, self.storefront(history, **arguments))

    async def search_or(self, default: D, query: str, **arguments: Unpack[SearchArguments]) -> SearchResult | D:
        """Return `search(query, ...)`, or the default, as `storefront_or` does."""
        return await self._or(default, self.search(query, **arguments))

    async def storefronts(
        self, requests: Iterable[StorefrontRequest], concurrency: int = 8
    ) -> list[Page | EndcapError]:
        """Ask for several pages, at most `concurrency` at a time; as `Client.storefronts`."""
        return await self._batch(lambda request: self._run(self._calls.storefront(request)), requests, concurrency)

    async def searches(
        self, requests: Iterable[SearchRequest], concurrency: int = 8
    ) -> list[SearchResult | EndcapError]:
        """Ask for several searches; as `storefronts`."""
        return await self._batch(lambda request: self._run(self._calls.search(request)), requests, concurrency)

    async def ready(self, timeout_s: float | None = None) -> bool:
        """Return whether any server is up and has both ensembles loaded; as `Client.ready`."""
        return await self._run(self._calls.ready(timeout_s))

    async def _or(self, default: D, call: Awaitable[T]) -> T | D:
        try:
            return await call
        except FALL_BACK as error:
            self._calls.policy.counters.add("fallbacks", error.reason)
            return default

    async def _batch(
        self, call: Callable[[R], Awaitable[T]], requests: Iterable[R], concurrency: int
    ) -> list[T | EndcapError]:
        checked_concurrency(concurrency)
        waiting = list(enumerate(requests))[::-1]
        answers: dict[int, T | EndcapError] = {}

        async def work() -> None:
            while waiting:
                place, request = waiting.pop()
                try:
                    answers[place] = await call(request)
                except EndcapError as error:
                    answers[place] = error

        count = len(waiting)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, count)):
                group.create_task(work())
        return [answers[place] for place in range(count)]

    async def _run(self, steps: Steps[T]) -> T:
        """Carry out the steps of a call."""
        under_way: set[asyncio.Task[Outcome]] = set()
        outcome: Outcome | None = None
        reply: Outcome | None = None
        try:
            while True:
                step = steps.send(reply)
                reply = None
                if isinstance(step, Receive):
                    if outcome is None:
                        outcome = await _first(under_way, step.timeout_s)
                    outcome, reply = None, outcome
                elif isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                elif isinstance(step, Shadow):
                    self._cast(step)
                elif step.alone and not under_way:
                    outcome = await self._ask(step)
                else:
                    under_way.add(asyncio.create_task(self._ask(step)))
        except StopIteration as done:
            return done.value
        finally:
            for task in under_way:
                task.cancel()
            if under_way:
                # Send the cancellations before the caller continues and perhaps ends the loop.
                await asyncio.gather(*under_way, return_exceptions=True)
            steps.close()

    async def _ask(self, step: Send) -> Outcome:
        try:
            method = self._method(step)
            response = await method(step.body, timeout=step.timeout_s, metadata=step.headers or None)
        except aio.AioRpcError as error:
            outcome = Outcome(step.number, step.server, None, error.code().name, error.details() or "")
            if outcome.code == "DEADLINE_EXCEEDED":
                # Distinguish a dead host from a slow server.
                outcome.connected = self._channels[step.server].get_state() is grpc.ChannelConnectivity.READY
            return outcome
        except asyncio.CancelledError:
            if self._closed:
                return Outcome(step.number, step.server, None, "CANCELLED", "the client was closed")
            raise
        return Outcome(step.number, step.server, response)

    def _cast(self, step: Shadow) -> None:
        """Send a shadow request, unless many are running."""
        if len(self._shadows) < MOST_SHADOWS:
            call = self._method(step)(step.body, timeout=step.timeout_s, metadata=step.headers or None)
            self._shadows.add(call)
            call.add_done_callback(self._shadows.discard)

    def _method(self, step: Send | Shadow) -> Any:
        if self._closed:
            raise EndcapError(f"this client of {', '.join(self.addresses)} is closed; make another")
        if not self._channels:
            arguments = self.options.channel_arguments()
            self._channels = [
                aio.insecure_channel(each, arguments)
                if self._credentials is None
                else aio.secure_channel(each, self._credentials, arguments)
                for each in self.addresses
            ]
            self._methods = [
                {
                    method: channel.unary_unary(method, response_deserializer=answer.FromString)
                    for method, answer in METHODS.items()
                }
                for channel in self._channels
            ]
        return self._methods[step.server][step.method]


async def _first(under_way: set[asyncio.Task[Outcome]], timeout_s: float | None) -> Outcome | None:
    done, _ = await asyncio.wait(under_way, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    if not done:
        return None
    task = done.pop()
    under_way.discard(task)
    return task.result()
