"""OpenTelemetry spans of calls; imported only if the options enable tracing.

One span covers the whole call; each attempt is a client span below it. Its context is sent as the W3C header
`traceparent`, which Triton reads in its OpenTelemetry mode.
"""

from collections.abc import Sequence

import grpc

from endcap_client.errors import EndcapError, InvalidArgument

try:
    from opentelemetry import trace
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as missing:
    raise InvalidArgument.of(
        "tracing", "the Python package opentelemetry-api (pip install 'endcap-client[otel]')", "an environment without"
    ) from missing

_SERVICE = "inference.GRPCInferenceService"
_PROPAGATOR = TraceContextTextMapPropagator()


class CallSpan:
    """The spans of one call; `end` must always be called."""

    def __init__(self, model: str):
        self._tracer = trace.get_tracer("endcap_client")
        self._span = self._tracer.start_span(f"endcap {model}", attributes={"endcap.model": model})
        self._attempts: dict[int, Span] = {}

    def send(self, number: int, address: str, hedge: bool) -> list[tuple[str, str]]:
        """Start the span of an attempt, and return the headers with its context."""
        host, _, port = address.rpartition(":")
        span = self._tracer.start_span(
            f"{_SERVICE}/ModelInfer",
            context=trace.set_span_in_context(self._span),
            kind=SpanKind.CLIENT,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": _SERVICE,
                "rpc.method": "ModelInfer",
                "server.address": host,
                "server.port": int(port),
                "endcap.attempt": number,
                "endcap.hedge": hedge,
            },
        )
        self._attempts[number] = span
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers, context=trace.set_span_in_context(span))
        return list(headers.items())

    def received(self, number: int, code: str, details: str) -> None:
        """End the span of an attempt with its gRPC status."""
        span = self._attempts.pop(number)
        span.set_attribute("rpc.grpc.status_code", _number(code))
        if code != "OK":
            span.set_status(Status(StatusCode.ERROR, f"{code}: {details}"))
        span.end()

    def answered(self, attempts: int, degraded: Sequence[str]) -> None:
        """Record a successful answer."""
        self._span.set_attribute("endcap.attempts", attempts)
        self._span.set_attribute("endcap.degraded", list(degraded))
        self._span.set_attribute("endcap.status", "ok")

    def failed(self, attempts: int, error: EndcapError) -> None:
        """Record the caller's error."""
        self._span.set_attribute("endcap.attempts", attempts)
        self._span.set_attribute("endcap.status", error.reason)
        self._span.set_attribute("error.type", type(error).__name__)
        self._span.set_status(Status(StatusCode.ERROR, str(error)))

    def end(self) -> None:
        """End the span of the call, and those of cancelled attempts."""
        for span in self._attempts.values():
            span.set_attribute("rpc.grpc.status_code", _number("CANCELLED"))
            span.end()
        self._attempts.clear()
        self._span.end()


def _number(code: str) -> int:
    number, _ = grpc.StatusCode[code].value
    return int(number)
