"""One request as a trace for Perfetto or chrome://tracing: client, ensemble, stages, and the engines' calls.

The times of the request come from the client's clock and from Triton's trace time stamps; both are the monotonic clock.
Triton does not trace the stages' calls to the engines. These calls come from a repetition of the request with the
stages in this process (:mod:`benchmarks.engine_calls`). They are shifted to the start of the stage and marked as
replayed.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from endcap_client import SearchRequest, StorefrontRequest
from endcap_client.decode import read_page, read_search
from endcap_client.encode import search_message, storefront_message
from tritonclient.grpc import service_pb2

from benchmarks.engine_calls import StageRun, stage_runs
from benchmarks.replay import ReplayedRequest
from benchmarks.serving import Served

CLIENT, SERVER, ENGINES = 1, 2, 3
"""Process numbers in the trace."""
_BUDGET_MS = 30_000
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_WRITTEN_S = 5.0


@dataclass(frozen=True)
class ClientSpan:
    """The client's times of a request, in nanoseconds of the monotonic clock."""

    start_ns: int
    sent_ns: int
    received_ns: int
    end_ns: int


@dataclass(frozen=True)
class ModelSpan:
    """One model's part of Triton's trace: time stamps in nanoseconds by event name."""

    model: str
    parent: bool
    at: Mapping[str, int]


def record(served: Served, build: Path, request: ReplayedRequest, placements: int, products: int) -> dict[str, Any]:
    """Make one request and return its trace document (the JSON object format of Chrome's trace events)."""
    triton = served.triton
    if served.traces is not None:
        settings = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "1", "log_frequency": "1"}
        triton.update_trace_settings(settings=settings)
    client, status = _ask(served.address, request, placements, products)
    spans: list[ModelSpan] = []
    if served.traces is not None:
        triton.update_trace_settings(settings={"trace_level": ["OFF"]})
        spans = read_triton_trace(_wait_for(served.traces))
    (runs,) = stage_runs(build, triton, [request], placements, products, _BUDGET_MS)
    return document(client, status, spans, runs, request)


def _ask(address: str, request: ReplayedRequest, placements: int, products: int) -> tuple[ClientSpan, dict[str, Any]]:
    """Send a request as the client does, and read the clock between the steps."""
    search = request.kind == "search"
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(_WRITTEN_S)
        infer = channel.unary_unary(_INFER, response_deserializer=service_pb2.ModelInferResponse.FromString)
        start_ns = time.monotonic_ns()
        message = (
            search_message("search", SearchRequest(request.query, request.history, products=products))
            if search
            else storefront_message(
                "storefront", StorefrontRequest(request.history, request.session, None, placements, products)
            )
        )
        body = message.to_bytes(_BUDGET_MS)
        sent_ns = time.monotonic_ns()
        response = infer(body, timeout=_BUDGET_MS / 1e3)
        received_ns = time.monotonic_ns()
        answer = read_search(response, False, request.query, 0.0) if search else read_page(response, False, 0.0)
        end_ns = time.monotonic_ns()
    return ClientSpan(start_ns, sent_ns, received_ns, end_ns), dict(answer.status.document)


def _wait_for(traces: Path) -> list[dict[str, Any]]:
    """The newest trace file of Triton, once it is complete; empty if none appears in time."""
    until = time.monotonic() + _WRITTEN_S
    while time.monotonic() < until:
        written = sorted(traces.parent.glob(f"{traces.name}.*"), key=lambda path: path.stat().st_mtime_ns)
        if written:
            with suppress(ValueError):  # still being written
                found: list[dict[str, Any]] = json.loads(written[-1].read_text(encoding="utf-8"))
                for path in written:
                    path.unlink()
                return found
        time.sleep(0.05)
    return []


def read_triton_trace(events: Iterable[Mapping[str, Any]]) -> list[ModelSpan]:
    """Triton's trace file as spans, in order of their start: the ensemble first, then its steps."""
    names: dict[int, tuple[str, bool]] = {}
    times: dict[int, dict[str, int]] = {}
    for event in events:
        number = int(event["id"])
        if "model_name" in event:
            names[number] = (str(event["model_name"]), "parent_id" not in event)
        for stamp in event.get("timestamps", ()):
            times.setdefault(number, {})[str(stamp["name"])] = int(stamp["ns"])
    spans = [ModelSpan(*names[number], at) for number, at in times.items() if number in names and "REQUEST_START" in at]
    return sorted(spans, key=lambda span: (not span.parent, span.at["REQUEST_START"]))


def document(
    client: ClientSpan,
    status: Mapping[str, Any],
    spans: Sequence[ModelSpan],
    runs: Sequence[StageRun],
    request: ReplayedRequest,
) -> dict[str, Any]:
    """The trace document: `traceEvents` of complete (X), asynchronous (b, e) and metadata (M) events."""
    events = _Events(client.start_ns)
    ensemble = spans[0].at if spans else _guessed(client, status)
    events.name(CLIENT, "client", {1: request.kind})
    events.name(SERVER, "tritonserver", {1: request.kind})
    events.span(CLIENT, 1, request.kind, client.start_ns, client.end_ns, {"request": request.document()})
    arrived_ns, answered_ns = ensemble["GRPC_WAITREAD_END"], ensemble["INFER_RESPONSE_COMPLETE"]
    for name, start, end in (
        ("encode", client.start_ns, client.sent_ns),
        ("send", client.sent_ns, arrived_ns),
        ("wait", arrived_ns, answered_ns),
        ("receive", answered_ns, client.received_ns),
        ("decode", client.received_ns, client.end_ns),
    ):
        events.span(CLIENT, 1, name, start, end)
    events.span(SERVER, 1, request.kind, ensemble["REQUEST_START"], answered_ns, {"status": dict(status)})
    began = _stages(events, spans[1:], status, ensemble["REQUEST_START"], answered_ns)
    _engines(events, runs, began)
    return {
        "traceEvents": events.events,
        "displayTimeUnit": "ms",
        "otherData": {
            "stages": "Triton trace (TIMESTAMPS)" if spans else "STATUS alone: laid end to end, without queues",
            "engines": "from the same request run again with the stages outside the server, shifted to each stage",
        },
    }


def _guessed(client: ClientSpan, status: Mapping[str, Any]) -> dict[str, int]:
    """Without a trace: place the server's time in the middle of the round trip."""
    took_ns = int(1e6 * float(status.get("ms", 0)))
    rest_ns = max(0, client.received_ns - client.sent_ns - took_ns)
    arrived = client.sent_ns + rest_ns // 2
    return {"GRPC_WAITREAD_END": arrived, "REQUEST_START": arrived, "INFER_RESPONSE_COMPLETE": arrived + took_ns}


def _stages(
    events: "_Events", steps: Sequence[ModelSpan], status: Mapping[str, Any], start_ns: int, answered_ns: int
) -> dict[str, int]:
    """Add each stage on a line of its own; return the start times of the stages' code."""
    took = {name: int(1e6 * part["ms"]) for name, part in status["stages"].items()}
    began: dict[str, int] = {}
    line = 1
    if not steps:
        for line, (stage, ns) in enumerate(took.items(), 2):
            events.thread(SERVER, line, stage)
            events.span(SERVER, line, stage, start_ns, start_ns + ns, {"of": status["stages"][stage]})
            began[stage] = start_ns
            start_ns += ns
        return began
    ends = [step.at["REQUEST_START"] for step in steps[1:]] + [answered_ns]
    for line, (step, end_ns) in enumerate(zip(steps, ends, strict=True), 2):
        at, stage = step.at, step.model
        events.thread(SERVER, line, stage)
        events.span(SERVER, line, stage, at["REQUEST_START"], end_ns, {"of": status["stages"].get(stage, {})})
        if "COMPUTE_START" not in at:  # Triton traced no compute
            continue
        code_ns = at.get("COMPUTE_INPUT_END", at["COMPUTE_START"])
        done_ns = min(code_ns + took.get(stage, 0), end_ns)
        events.span(SERVER, line, "queue", at["QUEUE_START"], at["COMPUTE_START"])
        events.span(SERVER, line, "input", at["COMPUTE_START"], code_ns)
        events.span(SERVER, line, "stage", code_ns, done_ns)
        events.span(SERVER, line, "hand over", done_ns, end_ns)
        began[stage] = code_ns
    return began


def _engines(events: "_Events", runs: Sequence[StageRun], began: Mapping[str, int]) -> None:
    """Add the engines' calls of the stages in `began`, shifted to the start of each stage."""
    calls = [
        (call, began[run.stage] - run.start_ns, run.stage) for run in runs if run.stage in began for call in run.calls
    ]
    if not calls:
        return
    engines = {name: line for line, name in enumerate(dict.fromkeys(call.engine for call, _, _ in calls), 1)}
    events.name(ENGINES, "engine calls (replayed)", {line: name for name, line in engines.items()})
    for number, (call, shift, stage) in enumerate(calls, 1):
        events.call(
            ENGINES, engines[call.engine], call.engine, number, call.start_ns + shift, call.end_ns + shift, stage
        )


class _Events:
    """Collects events, with times in microseconds since the request began."""

    def __init__(self, zero_ns: int):
        self._zero_ns = zero_ns
        self.events: list[dict[str, Any]] = []

    def name(self, process: int, name: str, threads: Mapping[int, str]) -> None:
        self.events.append({"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": name}})
        for thread, title in threads.items():
            self.thread(process, thread, title)

    def thread(self, process: int, thread: int, name: str) -> None:
        self.events.append({"ph": "M", "name": "thread_name", "pid": process, "tid": thread, "args": {"name": name}})

    def span(
        self, process: int, thread: int, name: str, start_ns: int, end_ns: int, args: Mapping[str, Any] | None = None
    ) -> None:
        event = {"ph": "X", "cat": "request", "name": name, "pid": process, "tid": thread, "ts": self._us(start_ns)}
        self.events.append(event | {"dur": max(0.0, round((end_ns - start_ns) / 1e3, 3)), "args": dict(args or {})})

    def call(self, process: int, thread: int, name: str, number: int, start_ns: int, end_ns: int, stage: str) -> None:
        """Add an asynchronous pair: calls of one engine may overlap, but complete events of one thread may not."""
        common = {"cat": "engine", "name": name, "id": number, "pid": process, "tid": thread}
        args = {"stage": stage, "replayed": True}
        self.events.append({"ph": "b", **common, "ts": self._us(start_ns), "args": args})
        self.events.append({"ph": "e", **common, "ts": self._us(end_ns), "args": {}})

    def _us(self, ns: int) -> float:
        return round((ns - self._zero_ns) / 1e3, 3)
