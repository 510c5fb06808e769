"""The trace of one request, in Chrome's trace event format."""

from typing import Any

import pytest
from trace_format import check_format

from benchmarks.engine_calls import EngineCall, StageRun, engine_shares
from benchmarks.replay import ReplayedRequest
from benchmarks.trace import ClientSpan, document, read_triton_trace

MS = 1_000_000
STATUS = {
    "ms": 40.0,
    "stages": {"retrieval": {"source": "computed", "ms": 8.0}, "rerank": {"source": "computed", "ms": 30.0}},
}
CLIENT = ClientSpan(1000 * MS, 1001 * MS, 1047 * MS, 1048 * MS)
RUNS = [
    StageRun(
        "retrieval",
        5000 * MS,
        5008 * MS,
        (EngineCall("nearest", 5001 * MS, 5004 * MS), EngineCall("nearest", 5002 * MS, 5006 * MS)),
    ),
    StageRun("rerank", 5010 * MS, 5040 * MS, (EngineCall("cross_encoder", 5012 * MS, 5038 * MS),)),
]


def model(number: int, name: str, parent: int | None, **at_ms: float) -> list[dict[str, Any]]:
    """Events of one model as Triton 24.10 writes them."""
    first: dict[str, Any] = {"id": number, "model_name": name, "model_version": 1}
    if parent is not None:
        first["parent_id"] = parent
    return [first] + [{"id": number, "timestamps": [{"name": n, "ns": int(ms * MS)}]} for n, ms in at_ms.items()]


def step(number: int, name: str, start: float) -> list[dict[str, Any]]:
    at = {
        "REQUEST_START": start,
        "QUEUE_START": start + 0.1,
        "COMPUTE_START": start + 0.2,
        "COMPUTE_INPUT_END": start + 0.3,
    }
    return model(
        number, name, 1, **at, COMPUTE_OUTPUT_START=start + 0.6, COMPUTE_END=start + 0.7, REQUEST_END=start + 0.8
    )


# Children come first in the file, and the steps in reverse.
TRITON = [
    *step(3, "rerank", 1012),
    *step(2, "retrieval", 1003),
    *model(
        1, "search", None, REQUEST_START=1002.5, GRPC_WAITREAD_END=1002, INFER_RESPONSE_COMPLETE=1046, REQUEST_END=1047
    ),
]


def spans_of(trace: dict[str, Any]) -> dict[str, tuple[float, float]]:
    return {
        e["name"]: (e["ts"] / 1e3, e["dur"] / 1e3) for e in trace["traceEvents"] if e["ph"] == "X" and e["pid"] == 2
    }


def test_triton_traces_are_read_in_the_request_order() -> None:
    spans = read_triton_trace(TRITON)
    assert [span.model for span in spans] == ["search", "retrieval", "rerank"]
    assert spans[0].at["INFER_RESPONSE_COMPLETE"] == 1046 * MS


def test_document_with_a_triton_trace() -> None:
    trace = document(CLIENT, STATUS, read_triton_trace(TRITON), RUNS, ReplayedRequest("search", query="tea"))
    check_format(trace)
    spans = spans_of(trace)
    assert spans["search"] == pytest.approx((2.5, 43.5))
    assert spans["retrieval"] == pytest.approx((3, 9)), "until the next step's request begins"
    assert spans["rerank"] == pytest.approx((12, 34)), "until the ensemble's answer is complete"
    calls = [e for e in trace["traceEvents"] if e["ph"] == "b"]
    assert [call["name"] for call in calls] == ["nearest", "nearest", "cross_encoder"]
    assert calls[0]["ts"] == pytest.approx(1e3 * (3.3 + 1)), "shifted to where the stage's code began"
    assert calls[2]["args"] == {"stage": "rerank", "replayed": True}


def test_document_without_a_triton_trace() -> None:
    trace = document(CLIENT, STATUS, [], RUNS, ReplayedRequest("search", query="tea"))
    check_format(trace)
    spans = spans_of(trace)
    assert spans["retrieval"][1] == pytest.approx(8)
    assert spans["rerank"] == pytest.approx((spans["retrieval"][0] + 8, 30))
    assert "STATUS alone" in trace["otherData"]["stages"]


def test_cached_stages_have_no_calls() -> None:
    cached = [each for each in step(2, "retrieval", 1003) if "COMPUTE" not in str(each)]
    trace = document(
        CLIENT, STATUS, read_triton_trace([*TRITON[:8], *cached, *TRITON[16:]]), RUNS, ReplayedRequest("search")
    )
    check_format(trace)
    assert [e["name"] for e in trace["traceEvents"] if e["ph"] == "b"] == ["cross_encoder"]


def test_engine_time_is_counted_once_where_calls_overlap() -> None:
    assert RUNS[0].engine_ms == pytest.approx(5)
    shares = engine_shares([RUNS, RUNS])
    assert shares["retrieval"] == {"own_ms": 3.0, "engine_ms": 5.0, "calls": {"nearest": 2.0}}
    assert shares["rerank"] == {"own_ms": 4.0, "engine_ms": 26.0, "calls": {"cross_encoder": 1.0}}
