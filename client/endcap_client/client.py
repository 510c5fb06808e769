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

    Every call has a deadline and sends the server the time left, so that the server degrades instead of answering too
    late. Errors are those of `endcap_client.errors`.

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
        """Close the connections and cancel running calls; the client cannot be used afterwards."""
        self._closed = True
        for channel in self._channels:
            channel.close()

    @property
    def counts(self) -> Counts:
        """Counts of this client so far."""
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
            history: ids of products that the shopper bought or viewed, oldest first.
            session: this session's search texts, oldest first.
            rules: merchandising rules; a mapping or a text is sent as JSON without changes.
            placements: how many placements.
            products: how many products in each.
            timeout_s: the call's deadline, seconds; None: the client's.
            budget_ms: upper limit of the server's time, milliseconds; None: the timeout less a small margin.
            explain: whether to request the components of each score (`ScoredProduct.signals`).
            metadata: headers of this call, after those of the options.
            shopper: a constant id of the shopper, at most 128 bytes, for trials of generations and for the server's
                record of what it showed, which holds a hash of it. Without it, the oldest products of the history
                choose the generation, and the record names no shopper.

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

        These errors are `Refused`, `DeadlineExceeded`, `Overloaded` and `ModelError`; `counts.fallbacks` counts them.
        Other errors are mistakes of the caller or the installation, and are raised.
        """
        return self._or(default, lambda: self.storefront(history, **arguments))

    def search_or(self, default: D, query: str, **arguments: Unpack[SearchArguments]) -> SearchResult | D:
        """Return `search(query, ...)`, or the default, as `storefront_or` does."""
        return self._or(default, lambda: self.search(query, **arguments))

    def storefronts(self, requests: Iterable[StorefrontRequest], concurrency: int = 8) -> list[Page | EndcapError]:
        """Ask for several pages, at most `concurrency` at a time.

        Each request has its own deadline, which starts when it is sent. A failed request has its error in its place and
        does not affect the others.

        Returns:
            For each request, in order, its page or the error that `storefront` would have raised.
        """
        return self._batch(lambda request: self._run(self._calls.storefront(request)), requests, concurrency)

    def searches(self, requests: Iterable[SearchRequest], concurrency: int = 8) -> list[SearchResult | EndcapError]:
        """Ask for several searches; as `storefronts`."""
        return self._batch(lambda request: self._run(self._calls.search(request)), requests, concurrency)

    def ready(self, timeout_s: float | None = None) -> bool:
        """Return whether both ensembles are ready at any server; one that cannot be reached is not ready.

        Raises:
            ProtocolError: an address is no such server.
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
            # gRPC raises this if another thread closes the channel at the same time.
            if self._closed:
                raise EndcapError(f"this client of {', '.join(self.addresses)} was closed: {error}") from error
            raise
        finally:
            for call in under_way.values():
                call.cancel()
            steps.close()

    def _ask(self, step: Send) -> Outcome:
        """Send and wait in this thread, which is faster in gRPC."""
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
        """Send a shadow request, unless many are running."""
        if len(self._shadows) < MOST_SHADOWS:
            call = self._method(step).future(step.body, timeout=step.timeout_s, metadata=step.headers or None)
            self._shadows.add(call)  # keep a reference, or the call would be cancelled
            call.add_done_callback(self._shadows.discard)

    def _method(self, step: Send | Shadow) -> Any:
        if self._closed:
            raise EndcapError(f"this client of {', '.join(self.addresses)} is closed; make another")
        return self._methods[step.server][step.method]

    def _note_connection(self, outcome: Outcome) -> None:
        """After a deadline, find out whether there was a connection, to distinguish a dead host from a slow server.

        gRPC reports that only to subscribers, which takes a thread. A server that has answered before is not checked,
        because gRPC would have reported the loss of its connection as an error.
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
