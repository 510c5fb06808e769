"""The logic of a call: sending, retries, hedging, reading. This module does no input or output.

A call is a generator of steps. It yields actions (`Send`, `Receive`, `Pause`, `Shadow`) and receives their results. Its
return value is the caller's answer, its exception the caller's error. The synchronous and the asyncio client differ
only in how they execute the steps.
"""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tritonclient.grpc import service_pb2

from endcap_client.decode import read_page, read_search
from endcap_client.encode import Message, budget_ms, search_message, storefront_message
from endcap_client.errors import (
    EndcapError,
    InvalidArgument,
    Overloaded,
    ProtocolError,
    Refused,
    from_grpc,
    may_try_again,
)
from endcap_client.options import Options, checked_timeout, metadata_pairs
from endcap_client.policy import Policy
from endcap_client.requests import SearchRequest, StorefrontRequest
from endcap_client.types import Page, SearchResult

T = TypeVar("T")
Headers = tuple[tuple[str, str | bytes], ...]
_PREFIX = "/inference.GRPCInferenceService/"
METHODS: dict[str, Any] = {
    f"{_PREFIX}ModelInfer": service_pb2.ModelInferResponse,
    f"{_PREFIX}ModelReady": service_pb2.ModelReadyResponse,
    f"{_PREFIX}ServerReady": service_pb2.ServerReadyResponse,
}
"""Path of each method that this client calls -> message class of its answer."""


@dataclass(slots=True)
class Send:
    """Send `body` to `method` of the server with this number; the result is None.

    `alone`: nothing else happens before this attempt ends, so the client may block.
    """

    number: int
    server: int
    method: str
    body: bytes
    timeout_s: float
    headers: Headers
    alone: bool


@dataclass(slots=True)
class Shadow:
    """Send a copy of a request whose answer is dropped; the result is None."""

    server: int
    method: str
    body: bytes
    timeout_s: float
    headers: Headers


@dataclass(slots=True)
class Receive:
    """Wait until an attempt ends; the result is its `Outcome`, or None after `timeout_s`."""

    timeout_s: float | None


@dataclass(slots=True)
class Pause:
    """Wait; the result is None."""

    seconds: float


@dataclass(slots=True)
class Outcome:
    """Result of an attempt: `response` for code "OK", `details` otherwise.

    `connected` is False if the deadline passed without a connection.
    """

    number: int
    server: int
    response: Any
    code: str = "OK"
    details: str = ""
    connected: bool = True


MOST_SHADOWS = 32
"""Most concurrent shadow requests of a client."""

_NOT_THE_MODELS_FAULT = ("OK", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED")
"""Codes of a generation on trial after which the live one is not tried: it would not help, or not in time."""

Steps = Generator[Send | Shadow | Receive | Pause, Outcome | None, T]


class Calls:
    """The calls of one client; shared by its threads or tasks."""

    def __init__(self, addresses: Sequence[str], options: Options, clock: Callable[[], float] = time.monotonic):
        self.options = options
        self.policy = Policy(addresses, options.retry, options.hedge)
        self.clock = clock
        self._headers = metadata_pairs(options.metadata)
        self._span: Callable[[str], Any] | None = None
        if options.tracing:
            from endcap_client.tracing import CallSpan

            self._span = CallSpan

    def storefront(self, request: StorefrontRequest) -> Steps[Page]:
        """Return the steps of a storefront call."""
        message = storefront_message(self.options.storefront_model, request)
        return self._call(message, request, lambda response, s: read_page(response, request.explain, s))

    def search(self, request: SearchRequest) -> Steps[SearchResult]:
        """Return the steps of a search call."""
        message = search_message(self.options.search_model, request)
        return self._call(
            message, request, lambda response, s: read_search(response, request.explain, request.query, s)
        )

    def ready(self, timeout_s: float | None) -> Steps[bool]:
        """Return the steps that check whether both models are ready at any address."""
        timeout_s = self.options.timeout_s if timeout_s is None else checked_timeout(timeout_s)
        return self._ready(timeout_s)

    def _call(
        self, message: Message, request: StorefrontRequest | SearchRequest, read: Callable[[Any, float], Any]
    ) -> Steps[Any]:
        timeout_s = self.options.timeout_s if request.timeout_s is None else checked_timeout(request.timeout_s)
        headers = self._headers + metadata_pairs(request.metadata) if request.metadata else self._headers
        attempts = _Attempts(self, message, timeout_s, request.budget_ms, headers)
        attempts.first = attempts.prepare(attempts.began)
        return self._steps(attempts, read)

    def _steps(self, attempts: "_Attempts", read: Callable[[Any, float], Any]) -> Steps[Any]:
        counters = self.policy.counters
        counters.add("calls")
        if self._span is not None:
            attempts.span = self._span(attempts.message.model)
        try:
            response = yield from attempts.run()
            answer = read(response, self.clock() - attempts.began)
            self.policy.staging.learn(attempts.answered_by, answer.status.document)
            if shadow := attempts.shadow():
                counters.add("shadows")
                yield shadow
            if attempts.span is not None:
                attempts.span.answered(attempts.sent, answer.status.degraded)
            return answer
        except EndcapError as error:
            error.attempts = attempts.sent
            counters.add("errors", error.reason)
            if attempts.span is not None:
                attempts.span.failed(attempts.sent, error)
            raise
        finally:
            if attempts.span is not None:
                attempts.span.end()

    def _ready(self, timeout_s: float) -> Steps[bool]:
        began = self.clock()
        models = (self.options.storefront_model, self.options.search_model)
        questions = [("ServerReady", service_pb2.ServerReadyRequest())]
        questions += [("ModelReady", service_pb2.ModelReadyRequest(name=model)) for model in models]
        number = 0
        for server, address in enumerate(self.policy.servers.addresses):
            for method, request in questions:
                number += 1
                left_s = max(0.001, timeout_s - (self.clock() - began))
                yield Send(
                    number, server, _PREFIX + method, request.SerializeToString(), left_s, self._headers, alone=True
                )
                outcome = yield Receive(None)
                if outcome is None or not _says_ready(outcome, address, timeout_s):
                    break
            else:
                return True
        return False


def _says_ready(outcome: Outcome, address: str, timeout_s: float) -> bool:
    if outcome.code == "OK":
        return bool(outcome.response.ready)
    error = from_grpc(outcome.code, outcome.details, address, "readiness", timeout_s, connected=outcome.connected)
    if isinstance(error, ProtocolError):
        raise error
    return False


class _Attempts:
    """The attempts of one call."""

    def __init__(self, calls: Calls, message: Message, timeout_s: float, asked_ms: int | None, headers: Headers):
        self.message = message
        self.began = calls.clock()
        self.sent = 0
        self.span: Any = None
        self.first = b""
        self.answered_by = 0
        """Number of the server that answered."""
        self._clock = calls.clock
        self._options = calls.options
        self._policy = calls.policy
        self._timeout_s = timeout_s
        self._asked_ms = asked_ms
        self._headers = headers
        self._servers: dict[int, int] = {}
        """Running attempts: number -> server."""
        self._tried: list[int] = []
        self._hedges: set[int] = set()
        self._staged: set[int] = set()
        """Attempts at a generation on trial."""
        self._live_only = False

    def prepare(self, now: float, model: str = "") -> bytes:
        """Return the request with the present budget; InvalidArgument if it cannot be sent."""
        elapsed_s = now - self.began
        budget = budget_ms(self._asked_ms, elapsed_s, self._timeout_s - elapsed_s, self._options.margin_ms)
        body = self.message.to_bytes(budget, model)
        if len(body) > self._options.max_send_bytes:
            expected = f"at most {self._options.max_send_bytes} bytes (max_send_bytes)"
            raise InvalidArgument.of("request", expected, f"{len(body)} bytes")
        return body

    def run(self) -> Steps[Any]:
        hedge_after_s = self._policy.hedge_after_s(self.message.model)
        yield self._send(self.began, alone=hedge_after_s is None)
        failures: list[EndcapError] = []
        while True:
            outcome = yield Receive(hedge_after_s)
            if outcome is None:
                hedge_after_s = None
                if self._clock() - self.began < self._timeout_s and self._policy.budget.spend():
                    yield self._send(self._clock(), hedge=True)
                continue
            server = self._servers[outcome.number]
            if outcome.number in self._staged and outcome.code not in _NOT_THE_MODELS_FAULT:
                # A trial must not cost a request: try the live generation at once.
                self._servers.pop(outcome.number)
                self._policy.staging.forget(server)
                self._live_only = True
                yield self._send(self._clock(), alone=not self._servers)
                continue
            error = self._judge(outcome)
            if error is None:
                self.answered_by = server
                return outcome.response
            failures.append(error)
            # Another server would refuse an invalid request, too; for other errors, a hedge can still succeed.
            if self._servers and not isinstance(error, InvalidArgument):
                hedge_after_s = None
                continue
            error = next((each for each in failures if isinstance(each, Overloaded)), error)
            wait_s = self._policy.backoff.wait_s(self.sent, self._left_s()) if may_try_again(error) else None
            if wait_s is None:
                raise error
            failures, hedge_after_s = [], None
            self._policy.counters.add("retries")
            yield Pause(wait_s)
            yield self._send(self._clock(), alone=True)

    def _send(self, now: float, alone: bool = False, hedge: bool = False) -> Send:
        server = self._policy.servers.pick(now, self._tried)
        staged = "" if self._live_only else self._target(server, "split")
        body = self.prepare(now, staged) if self.sent or staged else self.first
        self.sent += 1
        if staged:
            self._staged.add(self.sent)
            self._policy.counters.add("staged")
        self._tried.append(server)
        self._servers[self.sent] = server
        if hedge:
            self._hedges.add(self.sent)
            self._policy.counters.add("hedges")
        headers = self._headers
        if self.span is not None:
            headers += tuple(self.span.send(self.sent, self._policy.servers.addresses[server], hedge))
        left_s = max(0.001, self._timeout_s - (now - self.began))
        return Send(self.sent, server, f"{_PREFIX}ModelInfer", body, left_s, headers, alone)

    def shadow(self) -> Shadow | None:
        """The shadow request for the generation on trial of the server that answered, if there is one."""
        model = self._target(self.answered_by, "shadow")
        if not model:
            return None
        budget = budget_ms(self._asked_ms, 0.0, self._timeout_s, self._options.margin_ms)
        body = self.message.to_bytes(budget, model)
        return Shadow(self.answered_by, f"{_PREFIX}ModelInfer", body, self._timeout_s, self._headers)

    def _target(self, server: int, mode: str) -> str:
        if not self._options.trials:
            return ""
        return self._policy.staging.target(server, mode, self.message.model, self.message.shopper)

    def _judge(self, outcome: Outcome) -> EndcapError | None:
        server = self._servers.pop(outcome.number)
        policy = self._policy
        if self.span is not None:
            self.span.received(outcome.number, outcome.code, outcome.details)
        if outcome.code == "OK":
            policy.servers.answered(server)
            policy.went_well(self.message.model, self._clock() - self.began)
            if outcome.number in self._hedges:
                policy.counters.add("hedges_won")
            return None
        address = policy.servers.addresses[server]
        error = from_grpc(
            outcome.code, outcome.details, address, self.message.model, self._timeout_s, connected=outcome.connected
        )
        if isinstance(error, Refused) or may_try_again(error):
            policy.servers.refused(server, self._clock())
        else:
            policy.servers.answered(server)
        if isinstance(error, Overloaded):
            policy.budget.drain()
        return error

    def _left_s(self) -> float:
        return self._timeout_s - (self._clock() - self.began)
