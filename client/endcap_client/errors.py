"""What can go wrong with a request, as one small tree of exceptions, and how gRPC's answers map to it."""

import re


class EndcapError(Exception):
    """Base of every error that this client raises on purpose; its text is one sentence."""


class Refused(EndcapError):  # noqa: N818 - the name a caller reads in `except Refused`
    """No connection: nothing listens at the address, its name does not resolve, or the connection broke."""


class DeadlineExceeded(EndcapError):  # noqa: N818
    """No answer came within the call's timeout."""


class Overloaded(EndcapError):  # noqa: N818
    """The server sheds load (full queue, out of resources); try again later or elsewhere."""


class InvalidArgument(EndcapError):  # noqa: N818
    """The request is wrong, so sending it again will not help.

    Attributes:
        tensor: name of the tensor at fault, "" where the message names none.
        expected: what the server (or this client, before sending) wanted, "" where not said.
        got: what it was given, "" where not said.
    """

    def __init__(self, message: str, tensor: str = "", expected: str = "", got: str = ""):
        super().__init__(message)
        self.tensor = tensor
        self.expected = expected
        self.got = got

    @classmethod
    def of(cls, tensor: str, expected: str, got: str) -> "InvalidArgument":
        """Return the error for a value refused before it is sent."""
        return cls(f"{tensor}: expected {expected}, got {got}", tensor, expected, got)


class ModelError(EndcapError):
    """A model failed, or is not loaded, on a server that is otherwise reachable."""


class ProtocolError(EndcapError):
    """What answered does not speak this protocol, or its answer breaks the contract."""


# endcap's stages write "TENSOR: expected X, got Y; advice"; Triton's own checks (core, infer_request.cc) have wordings
# of their own.
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
_NO_CONNECTION = re.compile(
    r"failed to connect|connection refused|dns resolution|name resolution|errors resolving|lookup error|"
    r"socket closed|connection reset|broken pipe|goaway|no route|unreachable|connections to all backends|"
    r"endpoint closing|recvmsg|channel closed|too_many_pings",
    re.IGNORECASE,
)
_NOT_GRPC = re.compile(
    r"http1\.x|missing http status|non-200|unexpected compression|content-type|ssl_error|handshake|"
    r"attempt to connect to an http|settings frame",
    re.IGNORECASE,
)
_NOT_LOADED = re.compile(
    r"unknown model|not found|is not ready|not at ready state|no available versions", re.IGNORECASE
)


def from_grpc(code: str, details: str, address: str, model: str, timeout_s: float) -> EndcapError:
    """Return the error for one failed call.

    Args:
        code: name of the gRPC status, with or without the "StatusCode." prefix.
        details: the status' text.
        address: the server's HOST:PORT.
        model: the model that was asked.
        timeout_s: the call's deadline, seconds.
    """
    code = code.removeprefix("StatusCode.")
    text = " ".join((details or "no details").split())
    if code == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(f"no answer of {model} from {address} within {timeout_s:g} s")
    if code == "INVALID_ARGUMENT":
        return _invalid_argument(text)
    if _NOT_GRPC.search(text):
        return ProtocolError(f"{address} does not speak gRPC as Triton does (is it the HTTP or metrics port?): {text}")
    if code == "UNAVAILABLE":
        if _NO_CONNECTION.search(text):
            return Refused(f"no connection to {address}: {_reason(text)}")
        if _NOT_LOADED.search(text):
            return ModelError(f"{model} is not loaded on {address}: {text}")
        return Overloaded(f"{address} refuses work for {model} for now: {text}")
    if code == "NOT_FOUND":
        return ModelError(f"{model} is not loaded on {address}: {text}")
    if code == "RESOURCE_EXHAUSTED":
        if "message larger than max" in text:
            return ProtocolError(f"the message is larger than {address} or this client takes: {text}")
        return Overloaded(f"{address} is out of resources for {model}: {text}")
    if code == "UNIMPLEMENTED":
        return ProtocolError(f"{address} does not offer the inference protocol (KServe v2): {text}")
    if code == "CANCELLED":
        return EndcapError(f"the call of {model} on {address} was cancelled: {text}")
    return ModelError(f"{model} failed on {address} ({code}): {text}")


def _invalid_argument(text: str) -> InvalidArgument:
    for pattern in _EXPECTED_GOT:
        found = pattern.search(text)
        if found is not None:
            parts = found.groupdict()
            return InvalidArgument(text, parts["tensor"], parts.get("expected") or "", parts.get("got") or "")
    return InvalidArgument(text)


def _reason(text: str) -> str:
    """The last part of gRPC's chain of causes says what happened; the rest repeats the address."""
    reasons = (
        (r"connection refused", "connection refused, so nothing listens there"),
        (r"dns resolution|name resolution|errors resolving|lookup error", "the host name does not resolve"),
        (r"no route|unreachable", "the network has no route to it"),
        (r"timed out|timeout", "the host does not answer"),
        (r"socket closed|connection reset|broken pipe|goaway|recvmsg|endpoint closing", "the connection broke"),
    )
    return next((sentence for pattern, sentence in reasons if re.search(pattern, text, re.IGNORECASE)), text)
