"""OpenTelemetry spans of calls, and the trace context that travels with them."""

import subprocess
import sys

import grpc
import pytest
from endcap_client import Client, ModelError, Options, Retry
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

pytestmark = pytest.mark.usefixtures("both_clients")
TRACED = Options(tracing=True, retry=Retry(base_ms=1))


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """The process' one tracer provider: OpenTelemetry takes only the first that is set."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter):
    exporter.clear()
    return exporter.get_finished_spans


def test_a_call_and_its_tries_are_spans(service, address, spans):
    service.failures = [(grpc.StatusCode.UNAVAILABLE, "Socket closed")]
    with Client(address, options=TRACED) as client:
        client.storefront()
    first, second, call = spans()
    assert call.name == "endcap storefront"
    assert call.attributes["endcap.model"] == "storefront"
    assert call.attributes["endcap.attempts"] == 2
    assert call.attributes["endcap.status"] == "ok"
    assert call.attributes["endcap.degraded"] == ("theme",)
    assert call.status.status_code is not StatusCode.ERROR
    assert [span.attributes["endcap.attempt"] for span in (first, second)] == [1, 2]
    assert [span.attributes["rpc.grpc.status_code"] for span in (first, second)] == [14, 0]
    assert first.status.status_code is StatusCode.ERROR
    for span in (first, second):
        assert span.kind is SpanKind.CLIENT
        assert span.parent.span_id == call.context.span_id
        assert f"{span.attributes['server.address']}:{span.attributes['server.port']}" == address


def test_the_trace_context_travels(service, address, spans):
    service.failures = [(grpc.StatusCode.UNAVAILABLE, "Socket closed")]
    with Client(address, options=TRACED) as client, trace.get_tracer("test").start_as_current_span("ranking"):
        client.storefront(metadata={"tenant": "shop-7"})
    first, second, call, ranking = spans()
    assert call.parent.span_id == ranking.context.span_id
    sent = [metadata["traceparent"] for metadata in service.metadata]
    for span, header in zip((first, second), sent, strict=True):
        assert header == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"
    assert service.metadata[0]["tenant"] == "shop-7"


def test_a_failed_call_says_why(service, address, spans):
    service.failure = (grpc.StatusCode.INTERNAL, "died")
    with Client(address, options=TRACED) as client, pytest.raises(ModelError):
        client.storefront()
    call = spans()[-1]
    assert call.attributes["endcap.status"] == "model"
    assert call.attributes["error.type"] == "ModelError"
    assert call.status.status_code is StatusCode.ERROR


def test_without_tracing_there_are_no_spans_and_no_header(service, address, spans):
    with Client(address) as client:
        client.storefront()
    assert not spans()
    assert "traceparent" not in service.metadata[0]


def test_without_tracing_nothing_is_imported(address):
    code = (
        "import sys; from endcap_client import Client;"
        f"client = Client('{address}'); client.storefront(); client.close();"
        "sys.exit('opentelemetry' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_package_tracing_says_what_to_install():
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from endcap_client import Client, InvalidArgument, Options\n"
        "try:\n    Client('127.0.0.1:1', options=Options(tracing=True))\n"
        "except InvalidArgument as error:\n    sys.exit('endcap-client[otel]' not in str(error))\n"
        "sys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
