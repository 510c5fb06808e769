"""Runs cases and converts times to rows: ratios to the other implementations, and shares of the GPU's limits."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.kernels.cases import COMPILED, ENDCAP, PLAIN, KernelCase, relative_error
from benchmarks.kernels.limits import DeviceLimits
from benchmarks.kernels.timing import Times, as_graph, measure, measure_whole, per_launch


@dataclass(frozen=True)
class Row:
    """One line of the CSV."""

    kernel: str
    size: str
    scale: float
    implementation: str
    launch: str
    """eager, graph (one of 20 launches in a CUDA graph), or whole (host to host, by the clock)."""
    p20_us: float
    p50_us: float
    p80_us: float
    runs: int
    floor_us: float
    """Lower bound of the time from the measured limits; share is floor divided by p50."""
    limit: str
    share: float
    error: float
    """Relative error to plain torch."""
    note: str = ""


def check(case: KernelCase, names: Iterable[str] | None = None) -> dict[str, float]:
    """Errors of the implementations to plain torch; raises ValueError if one has a different result."""
    expected = case.implementations[PLAIN]()
    errors = {}
    for name in names or case.implementations:
        error = relative_error(case.implementations[name](), expected)
        if not error <= case.tolerance:
            raise ValueError(
                f"{case.kernel}, {case.size}, {name}: expected a relative error below {case.tolerance}, got {error}"
            )
        errors[name] = error
    return errors


def run(case: KernelCase, limits: DeviceLimits) -> Iterator[Row]:
    """Time all implementations of a case on the GPU."""
    implementations = dict(case.implementations)
    expected = implementations[PLAIN]()
    if case.compiled is not None:
        implementations[COMPILED] = case.compiled()
    floor, limit = limits.floor_us(case.bytes, case.operations)
    for name, function in implementations.items():
        try:
            error = relative_error(function(), expected)
            wrong = not error <= case.tolerance
        except (RuntimeError, NotImplementedError, TypeError) as refusal:
            # A baseline may be unavailable in this release or on this GPU; our kernels must work.
            if name == ENDCAP:
                raise
            yield _row(case, name, "none", None, floor, limit, float("nan"), f"refused: {_first_line(refusal)}")
            continue
        if wrong and name == ENDCAP:
            raise ValueError(f"{case.kernel}, {case.size}: expected an error below {case.tolerance}, got {error}")
        note = "wrong result" if wrong else ""
        for launch, timed in _launches(case, function):
            if isinstance(timed, str):
                yield _row(case, name, launch, None, floor, limit, error, timed)
            else:
                yield _row(case, name, launch, timed, floor, limit, error, note)


def _launches(case: KernelCase, function: Callable[[], Any]) -> Iterator[tuple[str, Times | str]]:
    if case.whole:
        yield "whole", measure_whole(function)
        return
    yield "eager", measure(function)
    try:
        replay = as_graph(function)
    except RuntimeError as refusal:
        torch.cuda.synchronize()
        yield "graph", f"no CUDA graph: {_first_line(refusal)}"
        return
    yield "graph", per_launch(measure(replay))


def _row(
    case: KernelCase, name: str, launch: str, times: Times | None, floor: float, limit: str, error: float, note: str
) -> Row:
    nothing = float("nan")
    p20, p50, p80, runs = (times.p20, times.p50, times.p80, times.runs) if times else (nothing, nothing, nothing, 0)
    share = floor / p50
    return Row(case.kernel, case.size, case.scale, name, launch, p20, p50, p80, runs, floor, limit, share, error, note)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
