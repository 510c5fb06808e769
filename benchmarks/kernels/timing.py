"""Times functions with a cold cache by GPU events: eagerly and, where launches would dominate, as CUDA graphs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

FLUSHED_BYTES = 256 * 2**20
"""Bytes that are written between two runs: several times the second-level cache of an H200 (60 MB)."""
WARM_UPS = 5


@dataclass(frozen=True)
class Times:
    """Microseconds of one run."""

    p20: float
    p50: float
    p80: float
    runs: int


def measure(function: Callable[[], Any], *, seconds: float = 0.3, least: int = 20, most: int = 400) -> Times:
    """Time ``function`` by events; before each run the cache is overwritten, which also keeps the GPU's queue full."""
    for _ in range(WARM_UPS):
        function()
    scratch = torch.empty(FLUSHED_BYTES // 4, dtype=torch.int32, device="cuda")
    torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    torch.cuda.synchronize()
    runs = int(np.clip(seconds / max(time.perf_counter() - began, 1e-6), least, most))
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
    for start, end in marks:
        scratch.zero_()
        start.record()
        function()
        end.record()
    torch.cuda.synchronize()
    return _quantiles([1000 * start.elapsed_time(end) for start, end in marks])


def measure_whole(function: Callable[[], Any], *, seconds: float = 1.0, least: int = 20, most: int = 300) -> Times:
    """Time ``function`` by the clock; it has to wait for its result."""
    for _ in range(WARM_UPS):
        function()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < least or (time.perf_counter() - began < seconds and len(times) < most):
        start = time.perf_counter()
        function()
        times.append(1e6 * (time.perf_counter() - start))
    return _quantiles(times)


def as_graph(function: Callable[[], Any]) -> Callable[[], None]:
    """The function as a CUDA graph; raises RuntimeError if it cannot be one (it waits for the GPU)."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = function()

    def replay() -> None:
        graph.replay()

    replay.kept = kept  # type: ignore[attr-defined]  # the graph writes to it
    return replay


def _quantiles(times: list[float]) -> Times:
    p20, p50, p80 = np.quantile(times, (0.2, 0.5, 0.8))
    return Times(float(p20), float(p50), float(p80), len(times))
