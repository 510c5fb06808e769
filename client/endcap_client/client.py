"""The synchronous client: one object per server, safe to share between threads."""

import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

from endcap_client import wire
from endcap_client.errors import EndcapError, InvalidArgument, ModelError, Refused, from_grpc
from endcap_client.types import Page, Rules, SearchResult

DEFAULT_ADDRESS = "127.0.0.1:8001"
# By default gRPC waits up to two minutes before it tries a server again that was away, and sends even loopback calls
# to the proxy that http_proxy names.
_CHANNEL = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_receive_message_length", 64 << 20),
)
# What a budget leaves for the way there and back, milliseconds, and its ceiling as a share of the timeout.
_MARGIN_MS = 15.0
_MARGIN_SHARE = 0.2


class Client:
    """Asks one endcap server for storefronts and searches over gRPC.

    Every call has a deadline and tells the server how much of it is left, so that the server degrades in time instead
    of answering too late. Errors are those of `endcap_client.errors`.

    Args:
        address: HOST:PORT of the server's gRPC port.
        timeout_s: deadline of a call that does not bring its own, seconds.
        ssl: whether to talk TLS; `root_certificates` is then a PEM file, or None for the system's.
        root_certificates: see `ssl`.
        storefront_model: name of the storefront ensemble (a changed contract comes under a new name).
        search_model: name of the search ensemble.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = 2.0,
        ssl: bool = False,
        root_certificates: str | None = None,
        storefront_model: str = "storefront",
        search_model: str = "search",
    ):
        if "://" in address or ":" not in address:
            raise InvalidArgument.of("address", "HOST:PORT of the gRPC port", repr(address))
        self.address = address
        self.timeout_s = _checked_timeout(timeout_s)
        self.storefront_model = storefront_model
        self.search_model = search_model
        try:
            self._grpc = InferenceServerClient(
                address, ssl=ssl, root_certificates=root_certificates, channel_args=list(_CHANNEL)
            )
        except OSError as error:
            raise InvalidArgument.of("root_certificates", "a readable PEM file", str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the client is of no use after that."""
        self._grpc.close()

    def storefront(
        self,
        history: Iterable[str] = (),
        session: Iterable[str] = (),
        rules: Rules | Mapping[str, Any] | str | None = None,
        placements: int = 4,
        products: int = 12,
        timeout_s: float | None = None,
        budget_ms: int | None = None,
        explain: bool = False,
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

        Raises:
            EndcapError: one of its kinds, see `endcap_client.errors`.
        """
        timeout_s = self.timeout_s if timeout_s is None else _checked_timeout(timeout_s)
        inputs = [
            *wire.texts_input("HISTORY", history),
            *wire.texts_input("SESSION", session),
            *wire.rules_input(rules),
            wire.number_input("PLACEMENTS", placements),
            wire.number_input("PRODUCTS", products),
            wire.number_input("BUDGET_MS", _budget_ms(timeout_s) if budget_ms is None else budget_ms),
        ]
        outputs = wire.requested(wire.STOREFRONT_OUTPUTS, explain)
        result, seconds = self._infer(self.storefront_model, inputs, outputs, timeout_s)
        status = wire.read_status(result)
        return Page(wire.read_placements(result, status, explain), status, seconds)

    def search(
        self,
        query: str,
        history: Iterable[str] = (),
        rules: Rules | Mapping[str, Any] | str | None = None,
        products: int = 12,
        timeout_s: float | None = None,
        budget_ms: int | None = None,
        explain: bool = False,
    ) -> SearchResult:
        """Return the products that answer a query, for this shopper; arguments as in `storefront`."""
        timeout_s = self.timeout_s if timeout_s is None else _checked_timeout(timeout_s)
        inputs = [
            *wire.texts_input("QUERY", [query]),
            *wire.texts_input("HISTORY", history),
            *wire.rules_input(rules),
            wire.number_input("PRODUCTS", products),
            wire.number_input("BUDGET_MS", _budget_ms(timeout_s) if budget_ms is None else budget_ms),
        ]
        outputs = wire.requested(wire.SEARCH_OUTPUTS, explain)
        result, seconds = self._infer(self.search_model, inputs, outputs, timeout_s)
        status = wire.read_status(result)
        return SearchResult(query, wire.read_products(result, status, explain), status, seconds)

    def ready(self, timeout_s: float | None = None) -> bool:
        """Return whether the server is up and has both ensembles loaded; a server that is not there is not ready."""
        timeout_s = self.timeout_s if timeout_s is None else _checked_timeout(timeout_s)
        until = time.monotonic() + timeout_s
        try:
            self._call("the server", self._grpc.is_server_ready, timeout_s, client_timeout=timeout_s)
            for model in (self.storefront_model, self.search_model):
                left = max(until - time.monotonic(), 0.001)
                if not self._call(model, self._grpc.is_model_ready, timeout_s, model_name=model, client_timeout=left):
                    return False
        except (Refused, ModelError):
            return False
        return True

    def _infer(
        self, model: str, inputs: list[InferInput], outputs: list[InferRequestedOutput], timeout_s: float
    ) -> tuple[InferResult, float]:
        start = time.perf_counter()
        result = self._call(
            model,
            self._grpc.infer,
            timeout_s,
            model_name=model,
            inputs=inputs,
            outputs=outputs,
            client_timeout=timeout_s,
        )
        return result, time.perf_counter() - start

    def _call(self, model: str, method: Any, timeout_s: float, **arguments: Any) -> Any:
        try:
            return method(**arguments)
        except InferenceServerException as error:
            raise from_grpc(error.status() or "", error.message(), self.address, model, timeout_s) from error
        except ValueError as error:
            # gRPC's only use of ValueError here: the channel was closed by us.
            raise EndcapError(f"this client of {self.address} is closed: {error}") from error


def _budget_ms(timeout_s: float) -> int:
    timeout_ms = 1000 * timeout_s
    return max(1, int(timeout_ms - min(_MARGIN_MS, _MARGIN_SHARE * timeout_ms)))


def _checked_timeout(timeout_s: float) -> float:
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s < 86_400:
        raise InvalidArgument.of("timeout_s", "seconds above 0 and below a day", repr(timeout_s))
    return float(timeout_s)
