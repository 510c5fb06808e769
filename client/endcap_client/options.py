"""All options of a client in one object, whose values are checked when it is created."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from types import MappingProxyType

import grpc

from endcap_client.errors import InvalidArgument

Metadata = Mapping[str, str | bytes]
"""gRPC metadata (headers): key -> value; only keys that end in "-bin" take bytes."""

_DAY_S = 86_400
_KEY = re.compile(r"[0-9a-z_.-]+")
_TEXT_VALUE = re.compile(r"[\x20-\x7e]*")
# gRPC's defaults are unsuitable: it waits up to two minutes before it reconnects, sends even loopback calls to the
# proxy of http_proxy, and shares the waiting times between clients.
_CHANNEL = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
    # gRPC's retries do not know our budget and our overload errors.
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True, kw_only=True)
class Tls:
    """TLS options; with key and chain, the client authenticates itself (mTLS).

    Attributes:
        root_certificates: PEM file of trusted authorities; None: the system's.
        private_key: PEM file of the client's private key.
        certificate_chain: PEM file of the client's certificate and those that signed it.
        server_name: expected name in the server's certificate; "": the host of the address.
    """

    root_certificates: str | PathLike[str] | None = None
    private_key: str | PathLike[str] | None = None
    certificate_chain: str | PathLike[str] | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.private_key is None) != (self.certificate_chain is None):
            there, lacks = ("private_key", "certificate_chain")[:: 1 if self.certificate_chain is None else -1]
            raise InvalidArgument.of(f"tls.{lacks}", f"a PEM file, since tls.{there} is given", "None")

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            InvalidArgument: one of them is not readable or no PEM file.
        """
        return grpc.ssl_channel_credentials(
            _pem("root_certificates", self.root_certificates),
            _pem("private_key", self.private_key),
            _pem("certificate_chain", self.certificate_chain),
        )


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Options of retries: only after UNAVAILABLE, never after overload, and within a budget.

    Attributes:
        attempts: most attempts of one call, including the first.
        base_ms: upper bound of the wait before the second attempt; it doubles with each further one. The wait is drawn
            uniformly between 0 and the bound, so that clients that failed together do not return together.
        max_ms: largest bound.
        budget_share: retries and hedges as a share of successful calls.
        budget_burst: most retries and hedges that can accumulate; also the initial value.
    """

    attempts: int = 3
    base_ms: float = 25.0
    max_ms: float = 500.0
    budget_share: float = 0.1
    budget_burst: float = 10.0

    def __post_init__(self) -> None:
        _whole("retry.attempts", self.attempts, 1, 10)
        _number("retry.base_ms", self.base_ms, 0, 60_000)
        _number("retry.max_ms", self.max_ms, self.base_ms, 60_000)
        _number("retry.budget_share", self.budget_share, 0, 1)
        _number("retry.budget_burst", self.budget_burst, 1, 10_000)


@dataclass(frozen=True, kw_only=True)
class Hedge:
    """Options of hedging: if a call is slow, send it to another address, too; the first answer wins.

    It needs two addresses or more, and uses the budget of `Retry`.

    Attributes:
        quantile: the wait, as a quantile of the latency of recent calls of the same model.
        min_calls: number of calls before the first hedge.
        min_ms: shortest wait.
    """

    quantile: float = 0.95
    min_calls: int = 20
    min_ms: float = 1.0

    def __post_init__(self) -> None:
        _number("hedge.quantile", self.quantile, 0.5, 1)
        _whole("hedge.min_calls", self.min_calls, 1, 256)
        _number("hedge.min_ms", self.min_ms, 0, 60_000)


@dataclass(frozen=True, kw_only=True)
class Keepalive:
    """HTTP/2 pings, which detect dead connections.

    A server closes a connection that pings more often than it allows; Triton allows one in 300 s unless it is started
    with other `--grpc-http2-*` and `--grpc-keepalive-*` options.

    Attributes:
        time_ms: idle time before a ping.
        timeout_ms: time for its answer, after which the connection counts as dead.
        without_calls: whether to ping without running calls.
    """

    time_ms: int = 300_000
    timeout_ms: int = 5_000
    without_calls: bool = False

    def __post_init__(self) -> None:
        _whole("keepalive.time_ms", self.time_ms, 1_000, 2**31 - 1)
        _whole("keepalive.timeout_ms", self.timeout_ms, 100, 2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a client; every value is checked, and errors name the wrong one.

    Attributes:
        timeout_s: deadline of a call that has none, seconds.
        margin_ms: time that the server's budget leaves for the network, milliseconds (at most a fifth of the time
            left).
        tls: TLS options; None: no TLS.
        metadata: headers of every call.
        retry: options of retries; None: no retries.
        hedge: options of hedging; None: no hedging.
        keepalive: options of pings; None: no pings.
        max_send_bytes: longest request.
        max_receive_bytes: longest answer.
        tracing: whether to record OpenTelemetry spans and pass the trace on (needs the extra `otel`).
        storefront_model: name of the storefront ensemble (a changed contract has a new name).
        search_model: name of the search ensemble.
        trials: whether to take part in trials of generations; without, only what is live answers.

    Raises:
        InvalidArgument: a value is out of range or of the wrong type.
    """

    timeout_s: float = 2.0
    margin_ms: float = 15.0
    tls: Tls | None = None
    metadata: Metadata = field(default_factory=lambda: MappingProxyType({}))
    retry: Retry | None = field(default_factory=Retry)
    hedge: Hedge | None = None
    keepalive: Keepalive | None = None
    max_send_bytes: int = 64 << 20
    max_receive_bytes: int = 64 << 20
    tracing: bool = False
    storefront_model: str = "storefront"
    search_model: str = "search"
    trials: bool = True

    def __post_init__(self) -> None:
        checked_timeout(self.timeout_s)
        _number("margin_ms", self.margin_ms, 0, 60_000)
        metadata_pairs(self.metadata)
        _whole("max_send_bytes", self.max_send_bytes, 1, 2**31 - 1)
        _whole("max_receive_bytes", self.max_receive_bytes, 1, 2**31 - 1)
        for name in ("storefront_model", "search_model"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise InvalidArgument.of(name, "a model's name", repr(getattr(self, name)))
        for name, kind in (("tls", Tls), ("retry", Retry), ("hedge", Hedge), ("keepalive", Keepalive)):
            if not isinstance(getattr(self, name), kind | None):
                raise InvalidArgument.of(name, f"{kind.__name__}(...) or None", repr(getattr(self, name)))

    def channel_arguments(self) -> list[tuple[str, int | str]]:
        """Return gRPC's channel arguments."""
        arguments: list[tuple[str, int | str]] = [
            *_CHANNEL,
            ("grpc.max_send_message_length", self.max_send_bytes),
            ("grpc.max_receive_message_length", self.max_receive_bytes),
        ]
        if self.keepalive is not None:
            arguments += [
                ("grpc.keepalive_time_ms", self.keepalive.time_ms),
                ("grpc.keepalive_timeout_ms", self.keepalive.timeout_ms),
                ("grpc.keepalive_permit_without_calls", int(self.keepalive.without_calls)),
            ]
        if self.tls is not None and self.tls.server_name:
            arguments.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return arguments


def checked_timeout(timeout_s: float) -> float:
    """Return a deadline as a float, or raise InvalidArgument."""
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s < _DAY_S:
        raise InvalidArgument.of("timeout_s", "seconds above 0 and below a day", repr(timeout_s))
    return float(timeout_s)


def checked_addresses(address: object) -> tuple[str, ...]:
    """Return one address or several as a tuple, or raise InvalidArgument."""
    addresses = (address,) if isinstance(address, str) else tuple(address)  # type: ignore[arg-type]
    if not addresses:
        raise InvalidArgument.of("address", "at least one HOST:PORT", "none")
    for each in addresses:
        if not isinstance(each, str) or "://" in each or not re.fullmatch(r".+:\d{1,5}", each):
            raise InvalidArgument.of("address", "HOST:PORT of the gRPC port", repr(each))
    if len(set(addresses)) < len(addresses):
        raise InvalidArgument.of("address", "different addresses", ", ".join(addresses))
    return addresses


def checked_options(options: Options | None, timeout_s: float | None) -> Options:
    """Return the options of a client, with its deadline."""
    if not isinstance(options, Options | None):
        raise InvalidArgument.of("options", "Options(...) or None", repr(options))
    options = options or Options()
    return options if timeout_s is None else replace(options, timeout_s=checked_timeout(timeout_s))


def checked_concurrency(concurrency: int) -> int:
    """Return a batch's concurrency, or raise InvalidArgument."""
    _whole("concurrency", concurrency, 1, 1_000)
    return concurrency


def metadata_pairs(metadata: Metadata) -> tuple[tuple[str, str | bytes], ...]:
    """Return headers for gRPC, or raise InvalidArgument for one that it would refuse."""
    if not isinstance(metadata, Mapping):
        raise InvalidArgument.of("metadata", "a mapping of keys to values", repr(metadata))
    for key, value in metadata.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key) or key.startswith("grpc-"):
            raise InvalidArgument.of("metadata", "keys of a-z, 0-9, _ . -, not beginning with 'grpc-'", repr(key))
        if key.endswith("-bin"):
            if not isinstance(value, bytes):
                raise InvalidArgument.of("metadata", f"bytes for {key!r}", type(value).__name__)
        elif not isinstance(value, str) or not _TEXT_VALUE.fullmatch(value):
            # The value can be a secret, so it is not in the error.
            raise InvalidArgument.of("metadata", f"printable ASCII text for {key!r}", f"another {type(value).__name__}")
    return tuple(metadata.items())


def _number(name: str, value: float, low: float, high: float) -> None:
    right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not right or not low <= value <= high:
        raise InvalidArgument.of(name, f"a number from {low:g} to {high:g}", repr(value))


def _whole(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidArgument.of(name, f"a whole number from {low} to {high}", repr(value))


def _pem(name: str, path: str | PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise InvalidArgument.of(f"tls.{name}", "a readable PEM file", str(error)) from error
    if b"-----BEGIN " not in text:
        raise InvalidArgument.of(f"tls.{name}", "a PEM file", f"{path} without a BEGIN line")
    return text
