"""OpenVINO's CPU plugin: the one that our encoders share, and what every engine asks of it."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openvino as ov

PROPERTIES: dict[str, Any] = {
    # The engines of a machine are several processes: pinned threads would pile up on the same cores.
    "ENABLE_CPU_PINNING": False,
    # Kernels are kept for each shape that was met, 5 000 by default: requests bring ever new lengths, and a student of
    # a few million parameters grew past a gigabyte. With 64 it stays at a third of that, as fast (docs/benchmarks.md).
    "CPU_RUNTIME_CACHE_CAPACITY": 64,
}


class _SignalStack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Whatever loads a CPU plugin in here, the thread's stack for signal handlers (sigaltstack(2)) stays what it was.

    A plugin lays a stack of its own into the thread that loads it, and unmaps it when it ends. If plugins end in
    another order than they came, or in another thread, the thread is left with a stack that is no more, and its next
    signal, be it Ctrl-C, ends the process with a segmentation fault (seen with OpenVINO 2026.4 and its GenAI). What the
    plugin wants it for, room for the registers of AMX, both the normal stack and that of `faulthandler` have.
    """
    libc, before = ctypes.CDLL(None), _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


@cache
def core() -> "ov.Core":
    """The core that the process's encoders share, its CPU plugin loaded: each more would bring a plugin of its own."""
    import openvino as ov  # not in the GPU container

    core = ov.Core()
    with signal_stack_kept():
        core.get_versions("CPU")
    return core


def resolved_precision(precision: str) -> str:
    """``f32`` or ``bf16``; for ``auto``, bf16 where the CPU computes with it."""
    if precision != "auto":
        return precision
    return "bf16" if "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
