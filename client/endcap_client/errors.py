"""The exceptions of requests, and the mapping of gRPC's errors to them."""

import re
from typing import ClassVar


class EndcapError(Exception):
    """Base of all errors of this client; its text is one sentence.

    Attributes:
        reason: one word for counting: "refused", "deadline", "overloaded", "invalid", "model", "protocol", or "other".
        code: gRPC's status ("UNAVAILABLE", ...), "" if the call was not sent.
        attempts: number of attempts.
    """

    reason: ClassVar[str] = "other"
    code: str = ""
    attempts: int = 0


class Refused(EndcapError):  # noqa: N818 - the name a caller reads in `except Refused`
    """No connection: nothing listens at the address, its name does not resolve, or the connection broke."""

    reason = "refused"


class DeadlineExceeded(EndcapError):  # noqa: N818
    """No answer came within the call's timeout."""

    reason = "deadline"


class Overloaded(EndcapError):  # noqa: N818
    """The server refuses work because of load; try again later, also at other servers."""

    reason = "overloaded"


class InvalidArgument(EndcapError):  # noqa: N818
    """The request, or a setting, is wrong; sending it again does not help.

    Attributes:
        tensor: name of the wrong tensor or setting, "" if unknown.
        expected: what the server or this client expected, "" if unknown.
        got: what it got, "" if unknown.
    """

    reason = "invalid"

    def __init__(self, message: str, tensor: str = "", expected: str = "", got: str = ""):
        super().__init__(message)
        self.tensor = tensor
        self.expected = expected
        self.got = got

    @classmethod
    def of(cls, tensor: str, expected: str, got: str) -> "InvalidArgument":
        """Return the error for a value that is refused before sending."""
        return cls(f"{tensor}: expected {expected}, got {got}", tensor, expected, got)


class ModelError(EndcapError):
    """A model failed, or is not loaded, on a reachable server."""

    reason = "model"


class ProtocolError(EndcapError):
    """The address does not support this protocol, or its answer breaks the contract."""

    reason = "protocol"


FALL_BACK = (Refused, DeadlineExceeded, Overloaded, ModelError)
"""Errors for which `storefront_or` and `search_or` return the default: the service cannot answer in time."""

# endcap's stages write "TENSOR: expected X, got Y; advice"; Triton's checks (core, infer_request.cc) have other
# wordings.
_EXPECTED_GOT = (
    re.compile(r"(?P<tensor>\b[A-Z][A-Z0-9_]*\b)[^:]{0,80}: expected (?P<expected>.+?), got (?P<got>.+?)(?:; |$)"),
    re.compile(
        r"inference input '(?P<tensor>[^']+)' data-type is '(?P<got>[^']+)', "
        r"but model '[^']+' expects '(?P<expected>[^']+)'"
    ),
    re.compile(
        r"unexpected shape for input '(?P<tensor>[^']+)' for model '[^']+'\. "
        r"Expected (?P<expected>\[[^\]]*\]), got (?P<got>\[[^\]]*\])"
    ),
    re.compile(r"unexpected inference (?P<got>input) '(?P<tensor>[^']+)'"),
)
_OVERLOADED = re.compile(
    r"overload|maximum queue size|queue is full|too many requests|max(imum)? inflight|overflow", re.IGNORECASE
)
_NO_CONNECTION = re.compile(
    r"failed to connect|connection refused|dns resolution|name resolution|errors resolving|lookup error|"
    r"socket closed|connection reset|broken pipe|goaway|no route|unreachable|connections to all backends|"
    r"endpoint closing|recvmsg|channel closed|too_many_pings|handshaker shutdown|connect error|no healthy upstream|"
    r"keepalive|ping timeout|connection timed out",
    re.IGNORECASE,
)
_TLS = re.compile(r"ssl|tls|certificate|tsi_|peer name|verification check|hostname verification", re.IGNORECASE)
_NOT_GRPC = re.compile(
    r"http1\.x|missing http status|non-200|http2 header with status|unexpected compression|content-type|"
    r"attempt to connect to an http|settings frame",
    re.IGNORECASE,
)
_NOT_READY = re.compile(
    r"unknown model|not found|is not ready|not at ready state|no available versions|stopping|stopped accepting|exiting",
    re.IGNORECASE,
)


def from_grpc(
    code: str, details: str, address: str, model: str, timeout_s: float, connected: bool = True
) -> EndcapError:
    """Return the error for one failed call.

    Args:
        code: name of the gRPC status.
        details: the status' text.
        address: the server's HOST:PORT.
        model: the model that was asked.
        timeout_s: the call's deadline, seconds.
        connected: whether there was a connection when the deadline passed.
    """
    error = _kind(code, " ".join((details or "no details").split()), address, model, timeout_s, connected)
    error.code = code
    return error


def may_try_again(error: EndcapError) -> bool:
    """Return whether the same request can succeed a little later: UNAVAILABLE, but not overload."""
    return error.code == "UNAVAILABLE" and isinstance(error, Refused | ModelError)


def _kind(code: str, text: str, address: str, model: str, timeout_s: float, connected: bool) -> EndcapError:
    if code == "DEADLINE_EXCEEDED":
        if not connected:
            return Refused(f"no connection to {address} within {timeout_s:g} s: the host does not answer")
        return DeadlineExceeded(f"no answer of {model} from {address} within {timeout_s:g} s")
    if code == "INVALID_ARGUMENT":
        return _invalid_argument(text)
    if _NOT_GRPC.search(text):
        return ProtocolError(f"{address} does not speak gRPC as Triton does (is it the HTTP or metrics port?): {text}")
    if code == "UNAVAILABLE":
        return _unavailable(text, address, model)
    if code == "NOT_FOUND":
        return ModelError(f"{model} is not loaded on {address}: {text}")
    if code == "RESOURCE_EXHAUSTED":
        if "message larger than max" in text:
            return ProtocolError(f"the message is larger than {address} or max_receive_bytes of this client: {text}")
        return Overloaded(f"{address} is out of resources for {model}: {text}")
    if code in ("UNIMPLEMENTED", "UNAUTHENTICATED", "PERMISSION_DENIED"):
        return ProtocolError(f"{address} does not offer the inference protocol (KServe v2) to this client: {text}")
    if code == "CANCELLED":
        return EndcapError(f"the call of {model} on {address} was cancelled: {text}")
    return ModelError(f"{model} failed on {address} ({code}): {text}")


def _unavailable(text: str, address: str, model: str) -> EndcapError:
    # Check the server's own messages first: they can contain words that look like a lost connection.
    if _OVERLOADED.search(text):
        return Overloaded(f"{address} is overloaded, {model} was not tried: {text}")
    if _NO_CONNECTION.search(text):
        if _TLS.search(text):
            return ProtocolError(f"no TLS connection to {address}; check the certificates and the server name: {text}")
        return Refused(f"no connection to {address}: {_reason(text)}")
    if _NOT_READY.search(text):
        return ModelError(f"{model} is not ready on {address}: {text}")
    return Overloaded(f"{address} refuses work for {model} for now: {text}")


def _invalid_argument(text: str) -> InvalidArgument:
    for pattern in _EXPECTED_GOT:
        found = pattern.search(text)
        if found is not None:
            parts = found.groupdict()
            return InvalidArgument(text, parts["tensor"], parts.get("expected") or "", parts.get("got") or "")
    return InvalidArgument(text)


def _reason(text: str) -> str:
    """The last part of gRPC's chain of causes, which says what happened; the rest repeats the address."""
    reasons = (
        (r"connection refused", "connection refused, so nothing listens there"),
        (r"dns resolution|name resolution|errors resolving|lookup error", "the host name does not resolve"),
        (r"no route|unreachable", "the network has no route to it"),
        (r"timed out|timeout|handshaker shutdown", "the host does not answer"),
        (r"socket closed|connection reset|broken pipe|goaway|recvmsg|endpoint closing", "the connection broke"),
    )
    return next((sentence for pattern, sentence in reasons if re.search(pattern, text, re.IGNORECASE)), text)
