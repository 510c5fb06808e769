"""OpenVINO's CPU plugin: one instance for the encoders of a process, and settings for all engines."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openvino as ov

PROPERTIES: dict[str, Any] = {
    # The engines are several processes: pinned threads would share the same cores.
    "ENABLE_CPU_PINNING": False,
    # OpenVINO caches kernels per shape, 5 000 by default. Requests have many lengths, so a student of a few million
    # parameters grew past a gigabyte. With 64 it needs a third of that, at the same speed (docs/benchmarks.md).
    "CPU_RUNTIME_CACHE_CAPACITY": 64,
}


class _SignalStack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Restore the thread's stack for signal handlers (sigaltstack(2)) after a CPU plugin was loaded.

    A plugin installs its own stack in the thread that loads it, and unmaps the stack when it ends. If plugins end in
    another order or in another thread, the thread keeps an unmapped stack. Its next signal, even Ctrl-C, then ends the
    process with a segmentation fault (seen with OpenVINO 2026.4 and its GenAI). The plugin needs the stack for the
    registers of AMX; the normal stack and that of `faulthandler` are large enough for them.
    """
    libc, before = ctypes.CDLL(None), _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


@cache
def core() -> "ov.Core":
    """The core that the encoders of this process share, so that there is one CPU plugin."""
    import openvino as ov  # not in the GPU container

    core = ov.Core()
    with signal_stack_kept():
        core.get_versions("CPU")
    return core


def resolved_precision(precision: str) -> str:
    """``f32`` or ``bf16``; for ``auto``, bf16 if the CPU supports it."""
    if precision != "auto":
        return precision
    return "bf16" if "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
