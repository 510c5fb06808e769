"""Times functions with a cold cache by GPU events: eagerly and, where launches would dominate, as CUDA graphs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

FLUSHED_BYTES = 256 * 2**20
"""Bytes of the buffers that are written and read between two runs: several times the L2 cache of an H200 (60 MB)."""
GRAPH_LAUNCHES = 20
"""Launches in one CUDA graph: a graph of one kernel would add 3 to 5 us of its own to the kernel's time."""
_ROTATED_BYTES = 2 * 2**30
"""Most memory of the copies of inputs over which the launches of a graph rotate."""
WARM_UPS = 5


@dataclass(frozen=True)
class Times:
    """Microseconds of one run."""

    p20: float
    p50: float
    p80: float
    runs: int


def measure(function: Callable[[], Any], *, seconds: float = 0.3, least: int = 20, most: int = 400) -> Times:
    """Time ``function`` by events with a cold cache.

    Before each run, a buffer is written, which also keeps the GPU's queue full, and another one is read: the function
    would otherwise pay for writing the first buffer's lines back to memory.
    """
    for _ in range(WARM_UPS):
        function()
    scratch = torch.empty(FLUSHED_BYTES // 4, dtype=torch.int32, device="cuda")
    clean = torch.zeros_like(scratch)
    torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    torch.cuda.synchronize()
    runs = int(np.clip(seconds / max(time.perf_counter() - began, 1e-6), least, most))
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
    for start, end in marks:
        scratch.zero_()
        clean.max()
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
    """`GRAPH_LAUNCHES` calls of the function as one CUDA graph.

    If the function is a partial of tensors, the calls rotate over copies of them, so that a call does not find its
    inputs in the cache (unless all copies fit into it).

    Raises:
        RuntimeError: the function cannot be captured, because it waits for the GPU.
    """
    calls = rotated(function)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [calls[number % len(calls)]() for number in range(GRAPH_LAUNCHES)]

    def replay() -> None:
        graph.replay()

    replay.kept = (kept, calls)  # type: ignore[attr-defined]  # the graph reads and writes them
    return replay


def rotated(function: Callable[[], Any], most_bytes: int = _ROTATED_BYTES) -> list[Callable[[], Any]]:
    """Equal calls with their own copies of the tensors of a partial; one call if it is none, or has large tensors."""
    if not isinstance(function, partial):
        return [function]
    tensors = [value for value in (*function.args, *function.keywords.values()) if isinstance(value, torch.Tensor)]
    size = sum(tensor.nbytes for tensor in tensors)
    copies = min(GRAPH_LAUNCHES, most_bytes // size) if size else 1

    def copied(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.detach().clone().requires_grad_(value.requires_grad)

    others: list[Callable[[], Any]] = [
        partial(
            function.func,
            *(copied(value) for value in function.args),
            **{name: copied(value) for name, value in function.keywords.items()},
        )
        for _ in range(copies - 1)
    ]
    return [function, *others]


def per_launch(times: Times) -> Times:
    """Microseconds of one of the launches of a graph."""
    return Times(times.p20 / GRAPH_LAUNCHES, times.p50 / GRAPH_LAUNCHES, times.p80 / GRAPH_LAUNCHES, times.runs)


def _quantiles(times: list[float]) -> Times:
    p20, p50, p80 = np.quantile(times, (0.2, 0.5, 0.8))
    return Times(float(p20), float(p50), float(p80), len(times))
