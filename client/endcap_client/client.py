"""The synchronous client: one object per service, safe to share between threads."""

import queue
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc

from endcap_client.calls import METHODS, MOST_SHADOWS, Calls, Outcome, Pause, Receive, Send, Shadow, Steps
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
DEFAULT_ADDRESS = "127.0.0.1:8001"
_STATE_WAIT_S = 0.2


class Client:
    """Asks endcap servers for storefronts and searches over gRPC.

    Every call has a deadline and tells the server how much of it is left, so that the server degrades in time instead
    of answering too late. Errors are those of `endcap_client.errors`.

    Args:
        address: HOST:PORT of a server's gRPC port, or several of them; calls go to each in turn.
        timeout_s: deadline of a call that does not bring its own, seconds; None takes that of the options.
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
        self._calls = Calls(self.addresses, self.options)
        self._closed = False
        self._answered: set[int] = set()
        self._shadows: set[Any] = set()
        credentials = self.options.tls.credentials() if self.options.tls is not None else None
        arguments = self.options.channel_arguments()
        self._channels = [
            grpc.insecure_channel(each, arguments)
            if credentials is None
            else grpc.secure_channel(each, credentials, arguments)
            for each in self.addresses
        ]
        self._methods = [
            {
                method: channel.unary_unary(method, response_deserializer=answer.FromString)
                for method, answer in METHODS.items()
            }
            for channel in self._channels
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and cancel what is under way; the client is of no use after that."""
        self._closed = True
        for channel in self._channels:
            channel.close()

    @property
    def counts(self) -> Counts:
        """What this client did so far."""
        return self._calls.policy.counters.snapshot()

    def storefront(
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
        """Return a shopper's themed page.

        Args:
            history: product ids the shopper bought or engaged with, oldest first.
            session: this session's search texts, oldest first.
            rules: merchandising rules; a mapping or a text is sent as the contract's JSON, as it is.
            placements: how many placements.
            products: how many products in each.
            timeout_s: the call's deadline, seconds; None takes the client's.
            budget_ms: time the server may spend, milliseconds; None is the timeout less a small margin.
            explain: whether to ask what each score is made of (`ScoredProduct.signals`).
            metadata: headers of this call, after those of the options.
            shopper: who asks, for the server's splits of the traffic: always the same for a shopper. It is hashed here
                and never sent. Without it the oldest products of the history stand for the shopper.

        Raises:
            EndcapError: one of its kinds, see `endcap_client.errors`.
        """
        request = StorefrontRequest(
            history, session, rules, placements, products, timeout_s, budget_ms, explain, metadata, shopper
        )
        return self._run(self._calls.storefront(request))

    def search(
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
        """Return the products that answer a query, for this shopper; arguments and errors as in `storefront`."""
        request = SearchRequest(query, history, rules, products, timeout_s, budget_ms, explain, metadata, shopper)
        return self._run(self._calls.search(request))

    def storefront_or(
        self, default: D, history: Sequence[str] = (), **arguments: Unpack[StorefrontArguments]
    ) -> Page | D:
        """Return `storefront(history, ...)`, or the default when the service cannot answer in time.

        That is for `Refused`, `DeadlineExceeded`, `Overloaded` and `ModelError`; `counts.fallbacks` counts them. Other
        errors are mistakes of the caller or of the installation, and are raised.
        """
        return self._or(default, lambda: self.storefront(history, **arguments))

    def search_or(self, default: D, query: str, **arguments: Unpack[SearchArguments]) -> SearchResult | D:
        """Return `search(query, ...)`, or the default, as `storefront_or` does."""
        return self._or(default, lambda: self.search(query, **arguments))

    def storefronts(self, requests: Iterable[StorefrontRequest], concurrency: int = 8) -> list[Page | EndcapError]:
        """Ask for several pages, at most `concurrency` at a time.

        Each request has its own deadline, which begins when it is sent. A request that fails leaves its error in its
        place, and the others are not disturbed.

        Returns:
            For each request, in order, its page or the error that `storefront` would have raised.
        """
        return self._batch(lambda request: self._run(self._calls.storefront(request)), requests, concurrency)

    def searches(self, requests: Iterable[SearchRequest], concurrency: int = 8) -> list[SearchResult | EndcapError]:
        """Ask for several searches; as `storefronts`."""
        return self._batch(lambda request: self._run(self._calls.search(request)), requests, concurrency)

    def ready(self, timeout_s: float | None = None) -> bool:
        """Return whether any server is up and has both ensembles loaded; one that cannot be asked is not ready.

        Raises:
            ProtocolError: what listens there is no such server.
        """
        return self._run(self._calls.ready(timeout_s))

    def _or(self, default: D, call: Callable[[], T]) -> T | D:
        try:
            return call()
        except FALL_BACK as error:
            self._calls.policy.counters.add("fallbacks", error.reason)
            return default

    def _batch(self, call: Callable[[R], T], requests: Iterable[R], concurrency: int) -> list[T | EndcapError]:
        requests = list(requests)
        concurrency = min(checked_concurrency(concurrency), len(requests))

        def one(request: R) -> T | EndcapError:
            try:
                return call(request)
            except EndcapError as error:
                return error

        if concurrency < 2:
            return [one(request) for request in requests]
        with ThreadPoolExecutor(concurrency, "endcap-batch") as pool:
            return list(pool.map(one, requests))

    def _run(self, steps: Steps[T]) -> T:
        """Carry out the steps of a call."""
        ended: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        under_way: dict[int, Any] = {}
        reply: Outcome | None = None
        try:
            while True:
                step = steps.send(reply)
                reply = None
                if isinstance(step, Receive):
                    try:
                        reply = ended.get(timeout=step.timeout_s)
                    except queue.Empty:
                        continue
                    under_way.pop(reply.number, None)
                    self._note_connection(reply)
                elif isinstance(step, Pause):
                    time.sleep(step.seconds)
                elif isinstance(step, Shadow):
                    self._cast(step)
                elif step.alone and not under_way:
                    ended.put(self._ask(step))
                else:
                    under_way[step.number] = self._begin(step, ended)
        except StopIteration as done:
            return done.value
        except ValueError as error:
            # What gRPC raises when another thread closes the channel at this very moment.
            if self._closed:
                raise EndcapError(f"this client of {', '.join(self.addresses)} was closed: {error}") from error
            raise
        finally:
            for call in under_way.values():
                call.cancel()
            steps.close()

    def _ask(self, step: Send) -> Outcome:
        """Send and wait in this thread: gRPC's quicker way."""
        try:
            response = self._method(step)(step.body, timeout=step.timeout_s, metadata=step.headers or None)
        except grpc.RpcError as error:
            return _failure(step, error)
        return Outcome(step.number, step.server, response)

    def _begin(self, step: Send, ended: "queue.SimpleQueue[Outcome]") -> Any:
        """Send, and put the outcome into `ended` once there is one."""
        call = self._method(step).future(step.body, timeout=step.timeout_s, metadata=step.headers or None)

        def end(call: Any) -> None:
            error = call if call.cancelled() else call.exception()
            ended.put(Outcome(step.number, step.server, call.result()) if error is None else _failure(step, error))

        call.add_done_callback(end)
        return call

    def _cast(self, step: Shadow) -> None:
        """Send what nobody waits for; not if many such requests are under way already."""
        if len(self._shadows) < MOST_SHADOWS:
            call = self._method(step).future(step.body, timeout=step.timeout_s, metadata=step.headers or None)
            self._shadows.add(call)  # a call that nobody holds is cancelled
            call.add_done_callback(self._shadows.discard)

    def _method(self, step: Send | Shadow) -> Any:
        if self._closed:
            raise EndcapError(f"this client of {', '.join(self.addresses)} is closed; make another")
        return self._methods[step.server][step.method]

    def _note_connection(self, outcome: Outcome) -> None:
        """After a deadline, find out whether there was a connection at all: a dead host is no slow server.

        gRPC only tells those who subscribe, which takes a thread, so a server that has answered before is not asked
        about: its connection, if lost, would have been told as such.
        """
        if outcome.code != "DEADLINE_EXCEEDED":
            if outcome.code != "UNAVAILABLE":
                self._answered.add(outcome.server)
        elif outcome.server not in self._answered and not self._closed:
            states: queue.SimpleQueue[grpc.ChannelConnectivity] = queue.SimpleQueue()
            channel = self._channels[outcome.server]
            channel.subscribe(states.put, try_to_connect=False)
            try:
                outcome.connected = states.get(timeout=_STATE_WAIT_S) is grpc.ChannelConnectivity.READY
            except queue.Empty:
                outcome.connected = True
            finally:
                channel.unsubscribe(states.put)
            if outcome.connected:
                self._answered.add(outcome.server)


def _failure(step: Send, error: Any) -> Outcome:
    return Outcome(step.number, step.server, None, error.code().name, error.details() or "")
