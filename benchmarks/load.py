"""Load on the server: phases of requests, closed loop or open loop, and their results."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np

from benchmarks.measures import RatePoint, percentiles
from benchmarks.replay import ReplayedRequest


@dataclass(frozen=True)
class Phase:
    """One phase of load.

    Attributes:
        requests: The requests, sent in this order; after the last one, the sequence starts again.
        steps: Sequence of (arrivals per second, seconds); a closed loop uses only the seconds.
        clients: Clients of a closed loop; 0 for an open one.
        timeout_s: Timeout of a client.
        budget_ms: Goodput counts answers within this time, by the client's clock.
    """

    requests: Sequence[ReplayedRequest]
    steps: Sequence[tuple[float, float]]
    clients: int = 0
    timeout_s: float = 4.0
    budget_ms: int = 2000
    placements: int = 4
    products: int = 12
    seed: int = 0

    @property
    def seconds(self) -> float:
        """Duration of the period in which requests start."""
        return sum(seconds for _, seconds in self.steps)


@dataclass(frozen=True)
class LoadSample:
    """The result of one request at its client; times in seconds since the phase began."""

    kind: str
    step: int
    intended_s: float
    start_s: float
    end_s: float
    error: str = ""
    """Name of the client's exception: "Overloaded" is a rejection."""
    message: str = ""
    """Message of the exception."""
    degraded: Sequence[str] = ()
    """Stages that used their fallback, even for some items only (for example one of five themes)."""
    fallback: Sequence[str] = ()
    """Stages that used their fallback for all items."""
    cached: Sequence[str] = ()
    stage_ms: dict[str, float] = field(default_factory=dict)

    @property
    def latency_ms(self) -> float:
        """From the intended start to the answer; infinite without an answer."""
        return float("inf") if self.error else 1e3 * (self.end_s - self.intended_s)

    @property
    def round_trip_ms(self) -> float:
        """From the actual start to the answer or error."""
        return 1e3 * (self.end_s - self.start_s)


class LoadGenerator:
    """The locust process; a context manager that starts and ends it.

    Raises:
        RuntimeError: The process ended; the message contains its output.
    """

    def __init__(self, address: str):
        self._command = [sys.executable, "-m", "benchmarks.locust_program", address]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        # gevent patches sockets for users that block in them. Our users wait for a thread that must stay unpatched.
        environment = {**os.environ, "LOCUST_SKIP_MONKEY_PATCH": "1"}
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        try:
            self._read()
        except RuntimeError:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None or process.stdin is None or process.stdout is None:
            return
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        process.stdout.close()

    def run(self, phase: Phase) -> list[LoadSample]:
        """Run a phase until its last request has ended."""
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("the load generator is not running; use it in a with statement")
        document = asdict(phase)
        self._process.stdin.write(json.dumps(document) + "\n")
        self._process.stdin.flush()
        return [LoadSample(**each) for each in self._read()]

    def _read(self) -> Any:
        if self._process is None or self._process.stdout is None:
            raise RuntimeError("the load generator is not running; use it in a with statement")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load generator ended with status {self._process.wait()}; its output says why")
        return json.loads(line)


def arrival_times(steps: Sequence[Sequence[float]], generator: np.random.Generator) -> Iterator[tuple[float, int]]:
    """Poisson arrivals: seconds since the start, and the step, for steps of (rate a second, seconds)."""
    begin = 0.0
    for step, (rate, seconds) in enumerate(steps):
        now = begin + generator.exponential(1 / rate)
        while now < begin + seconds:
            yield now, step
            now += generator.exponential(1 / rate)
        begin += seconds


def summary(samples: Sequence[LoadSample], phase: Phase) -> dict[str, Any]:
    """Latency, throughput, degraded, cached and failed shares of a phase, overall and by kind."""
    kinds = sorted({sample.kind for sample in samples})
    figures = _figures(samples, phase)
    return figures | {"kinds": {kind: _figures([s for s in samples if s.kind == kind], phase) for kind in kinds}}


def _figures(samples: Sequence[LoadSample], phase: Phase) -> dict[str, Any]:
    answered = [sample for sample in samples if not sample.error]
    latencies = [sample.latency_ms for sample in answered]
    good = [latency for latency in latencies if latency <= phase.budget_ms]
    errors: dict[str, int] = {}
    messages: dict[str, str] = {}
    for sample in samples:
        if sample.error:
            errors[sample.error] = errors.get(sample.error, 0) + 1
            messages.setdefault(sample.error, sample.message)
    if phase.clients:
        # Little's law: otherwise a request that is cut off at the end of a short window would not count.
        busy_s = sum(sample.end_s - sample.start_s for sample in samples) / phase.clients
        throughput = len(answered) / busy_s if busy_s else 0.0
    else:
        throughput = len(answered) / phase.seconds
    return {
        "requests": len(samples),
        "answered": len(answered),
        "latency_ms": percentiles(latencies),
        "throughput": round(throughput, 3),
        "goodput": round(throughput * len(good) / len(answered), 3) if answered else 0.0,
        "degraded_share": _share(answered, [sample for sample in answered if sample.degraded]),
        "fallback_share": _share(answered, [sample for sample in answered if sample.fallback]),
        "cached_share": _share(answered, [sample for sample in answered if sample.cached]),
        "errors": errors,
        "first_messages": messages,
        "stage_ms": stage_means(answered),
        "beyond_stages_ms": _median([s.round_trip_ms - sum(s.stage_ms.values()) for s in answered]),
    }


def rate_point(samples: Sequence[LoadSample], rate: float, budget_ms: float, seconds: float) -> RatePoint:
    """One point of the latency curve; a request without an answer counts as infinitely late."""
    ordered = sorted(sample.latency_ms for sample in samples)
    # The value that 99 % do not exceed; interpolating towards infinity would be infinite too early.
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] if ordered else float("inf")
    good = sum(latency <= budget_ms for latency in ordered)
    return RatePoint(rate, p99, good / seconds)


def stage_means(samples: Iterable[LoadSample]) -> dict[str, float]:
    """Mean milliseconds of each stage, as the stages themselves say in STATUS; a cached stage counts as 0."""
    taken: dict[str, list[float]] = {}
    for sample in samples:
        for stage, ms in sample.stage_ms.items():
            taken.setdefault(stage, []).append(ms)
    return {stage: round(sum(values) / len(values), 3) for stage, values in taken.items()}


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 3) if len(values) else None


def _share(of: Sequence[LoadSample], those: Sequence[LoadSample]) -> float:
    return round(len(those) / len(of), 4) if of else 0.0
