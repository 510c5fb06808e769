"""Measures the stages' calls to engines: the stages run in this process and call the server's engines over gRPC.

Neither STATUS nor Triton's traces and statistics show how long a stage waited for an engine. Triton 24.10 does not
trace calls between models. For a model that answers asynchronously, it counts compute only until `execute` returns. The
same requests are therefore run again with the stages in this process.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from endcap_server.declared.errors import EngineError, EngineTimeout
from endcap_server.declared.reasons import Cause
from endcap_server.declared.tensors import Tensors
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from benchmarks.inprocess import InProcessShop
from benchmarks.replay import ReplayedRequest


@dataclass(frozen=True)
class EngineCall:
    """One call, from request to answer; nanoseconds of ``time.monotonic_ns``."""

    engine: str
    start_ns: int
    end_ns: int


class EnginesOverGrpc:
    """The engines of a running server, with the interface that stages use; records every call."""

    def __init__(self, triton: InferenceServerClient):
        self._triton = triton
        self.calls: list[EngineCall] = []

    async def call(self, engine: str, inputs: Tensors, deadline_ns: int, outputs: tuple[str, ...]) -> Tensors:
        """Return the requested `outputs` of one request to `engine`; see `endcap_server.stages.base.Engines`."""
        left_s = (deadline_ns - time.monotonic_ns()) / 1e9
        if left_s <= 0:
            raise EngineTimeout(engine, "no time left to ask", Cause.NO_TIME)
        return await asyncio.to_thread(self._call, engine, inputs, deadline_ns, left_s, outputs)

    def _call(self, engine: str, inputs: Tensors, deadline_ns: int, left_s: float, outputs: tuple[str, ...]) -> Tensors:
        start_ns = time.monotonic_ns()
        try:
            result = self._triton.infer(
                engine,
                [_input(name, tensor) for name, tensor in inputs.items()],
                outputs=[InferRequestedOutput(name) for name in outputs],
                client_timeout=left_s,
                parameters={"deadline_ns": deadline_ns},
            )
        except InferenceServerException as error:
            raise EngineError(engine, str(error)) from None
        finally:
            self.calls.append(EngineCall(engine, start_ns, time.monotonic_ns()))
        return {name: result.as_numpy(name) for name in outputs}


def _input(name: str, tensor: np.ndarray) -> InferInput:
    tensor = np.ascontiguousarray(tensor)
    return InferInput(name, list(tensor.shape), np_to_triton_dtype(tensor.dtype)).set_data_from_numpy(tensor)


@dataclass(frozen=True)
class StageRun:
    """One stage of a replayed request, and its calls."""

    stage: str
    start_ns: int
    end_ns: int
    calls: tuple[EngineCall, ...]

    @property
    def ms(self) -> float:
        """Duration of the whole stage."""
        return (self.end_ns - self.start_ns) / 1e6

    @property
    def engine_ms(self) -> float:
        """Time during which at least one call was running."""
        covered, until = 0, self.start_ns
        for call in sorted(self.calls, key=lambda each: each.start_ns):
            covered += max(0, call.end_ns - max(until, call.start_ns))
            until = max(until, call.end_ns)
        return covered / 1e6


def stage_runs(
    build: Path,
    triton: InferenceServerClient,
    requests: Sequence[ReplayedRequest],
    placements: int,
    products: int,
    budget_ms: int = 30_000,
) -> list[list[StageRun]]:
    """Run requests one after another; the stages of each."""
    engines = EnginesOverGrpc(triton)
    shop = InProcessShop(build, engines)
    runs = []
    try:
        for request in requests:
            engines.calls = []
            shop.answer(request, placements, products, budget_ms)
            runs.append([
                StageRun(stage, start, end, tuple(c for c in engines.calls if start <= c.start_ns < end))
                for stage, start, end in shop.spans
            ])  # fmt: skip
    finally:
        shop.close()
    return runs


def engine_shares(runs: Sequence[Sequence[StageRun]]) -> dict[str, dict[str, Any]]:
    """For each stage: medians of its own time and of its wait for engines, and the number of calls of each engine."""
    stages: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(run.stage for request in runs for run in request):
        of_stage = [run for request in runs for run in request if run.stage == name]
        engines = sorted({call.engine for run in of_stage for call in run.calls})
        stages[name] = {
            "own_ms": round(float(np.median([run.ms - run.engine_ms for run in of_stage])), 3),
            "engine_ms": round(float(np.median([run.engine_ms for run in of_stage])), 3),
            "calls": {
                engine: round(sum(c.engine == engine for run in of_stage for c in run.calls) / len(of_stage), 2)
                for engine in engines
            },
        }
    return stages
