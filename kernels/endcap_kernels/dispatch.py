"""Selects the path of an operation, and launches kernels.

Tensors on a GPU use the Triton kernel. Tensors on the CPU use the same kernel in Triton's interpreter, if
``TRITON_INTERPRET=1`` was set before the import of this package, and plain PyTorch otherwise.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton

INTERPRETED: bool = bool(triton.knobs.runtime.interpret)
"""Whether kernels are interpreted on the CPU in this process; Triton decides that when a kernel is defined."""

_recorders: list[list[str]] = []
_compilers: list[Callable[[Any, tuple[Any, ...], dict[str, Any]], None]] = []


def runs_kernel(tensor: torch.Tensor) -> bool:
    """Whether an operation on ``tensor`` uses its Triton kernel, not plain PyTorch."""
    return tensor.is_cuda or INTERPRETED or bool(_compilers)


def launch(kernel: Any, grid: tuple[int, ...], device: torch.device, *args: Any, **options: Any) -> None:
    """Launch ``kernel`` on ``device``; no effect for an empty grid."""
    if 0 in grid:
        return
    for names in _recorders:
        names.append(kernel.__name__)
    if _compilers:
        _compilers[-1](kernel, args, options)
        return
    if device.type == "cuda":
        with torch.cuda.device(device):
            # Releases have different defaults for fused multiply-add, and warn about it.
            kernel[grid](*args, enable_fp_fusion=True, **options)
    else:
        import numpy as np  # the interpreter uses NumPy; suppress warnings about NaN and infinity

        with np.errstate(all="ignore"):
            kernel[grid](*args, **options)


@contextmanager
def recorded_launches() -> Iterator[list[str]]:
    """A list of the names of kernels that are launched meanwhile, for tests of the path."""
    names: list[str] = []
    _recorders.append(names)
    try:
        yield names
    finally:
        _recorders.remove(names)


@contextmanager
def compiling(compiler: Callable[[Any, tuple[Any, ...], dict[str, Any]], None]) -> Iterator[None]:
    """Pass kernels, arguments and options to ``compiler`` instead of launching them; results are not written."""
    _compilers.append(compiler)
    try:
        yield
    finally:
        _compilers.remove(compiler)


def custom_op(
    name: str, fake: Callable[..., Any], mutates: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Any]:
    """Register a function as the operation ``torch.ops.endcap.<name>``, opaque to ``torch.compile``.

    Args:
        name: name of the operation.
        fake: function with the same arguments; returns empty tensors with the result's shapes, types and devices.
        mutates: names of the arguments that it changes in place.
    """

    def register(function: Callable[..., Any]) -> Any:
        operation = torch.library.custom_op(f"endcap::{name}", function, mutates_args=mutates)
        operation.register_fake(fake)
        return operation

    return register


def power_of_two(value: int, least: int, most: int) -> int:
    """The smallest power of two that is at least ``value``, within ``least`` and ``most`` (powers of two)."""
    return min(max(triton.next_power_of_2(max(value, 1)), least), most)
