"""Load on the server: phases of requests, closed loop or open loop, and what came of them."""

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
    """One stretch of load.

    Attributes:
        requests: What is asked, in this order, again from the beginning when it ends.
        steps: (arrivals a second, seconds) one after another; of a closed loop only the seconds count.
        clients: Clients of a closed loop; 0 for an open one.
        timeout_s: After which a client gives up.
        budget_ms: Until when an answer is worth something, by the client's clock: what goodput counts.
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
        """How long requests are started."""
        return sum(seconds for _, seconds in self.steps)


@dataclass(frozen=True)
class LoadSample:
    """One request as its client saw it; times in seconds since the phase began."""

    kind: str
    step: int
    intended_s: float
    start_s: float
    end_s: float
    error: str = ""
    """Name of the client's exception: "Overloaded" is a rejection."""
    message: str = ""
    """What the exception said."""
    degraded: Sequence[str] = ()
    """Stages that fell back, if only in part (a theme of five replaced)."""
    fallback: Sequence[str] = ()
    """Stages that fell back as a whole."""
    cached: Sequence[str] = ()
    stage_ms: dict[str, float] = field(default_factory=dict)

    @property
    def latency_ms(self) -> float:
        """From the intended start to the answer; infinite without one."""
        return float("inf") if self.error else 1e3 * (self.end_s - self.intended_s)

    @property
    def round_trip_ms(self) -> float:
        """From the actual start to the answer or error."""
        return 1e3 * (self.end_s - self.start_s)


class LoadGenerator:
    """The locust process; a context manager that starts and ends it.

    Raises:
        RuntimeError: The process ended, with what it said.
    """

    def __init__(self, address: str):
        self._command = [sys.executable, "-m", "benchmarks.locust_program", address]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        # gevent's patches are for users that block in sockets; ours wait for a thread that has to stay as it is.
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
        """Run a phase to the end of its last request."""
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
        # Little's law: without it a request that the end of a short window cuts would count as nothing.
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
    """Mean milliseconds of each stage, as the stages themselves say in STATUS; a cached stage took none."""
    taken: dict[str, list[float]] = {}
    for sample in samples:
        for stage, ms in sample.stage_ms.items():
            taken.setdefault(stage, []).append(ms)
    return {stage: round(sum(values) / len(values), 3) for stage, values in taken.items()}


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 3) if len(values) else None


def _share(of: Sequence[LoadSample], those: Sequence[LoadSample]) -> float:
    return round(len(those) / len(of), 4) if of else 0.0
