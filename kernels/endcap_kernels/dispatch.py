"""Which path an operation takes, and how kernels are started.

The rule: tensors on a GPU go to the Triton kernel; tensors on the CPU go to the same kernel under Triton's interpreter
(``TRITON_INTERPRET=1``, set before this package is imported), and without it to plain PyTorch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton

INTERPRETED: bool = bool(triton.knobs.runtime.interpret)
"""Whether the kernels of this process are interpreted on the CPU: Triton decides when a kernel is defined."""

_recorders: list[list[str]] = []
_compilers: list[Callable[[Any, tuple[Any, ...], dict[str, Any]], None]] = []


def runs_kernel(tensor: torch.Tensor) -> bool:
    """Whether an operation on ``tensor`` runs its Triton kernel (and not plain PyTorch)."""
    return tensor.is_cuda or INTERPRETED or bool(_compilers)


def launch(kernel: Any, grid: tuple[int, ...], device: torch.device, *args: Any, **options: Any) -> None:
    """Start ``kernel`` on ``device``; an empty grid starts nothing."""
    if 0 in grid:
        return
    for names in _recorders:
        names.append(kernel.__name__)
    if _compilers:
        _compilers[-1](kernel, args, options)
        return
    if device.type == "cuda":
        with torch.cuda.device(device):
            # Releases differ in their default for fused multiply-add, and say so by a warning.
            kernel[grid](*args, enable_fp_fusion=True, **options)
    else:
        import numpy as np  # what the interpreter computes with; a GPU gives NaN and infinity without a warning

        with np.errstate(all="ignore"):
            kernel[grid](*args, **options)


@contextmanager
def recorded_launches() -> Iterator[list[str]]:
    """Give the list of the kernels that are started meanwhile, by name: for tests that the intended path ran."""
    names: list[str] = []
    _recorders.append(names)
    try:
        yield names
    finally:
        _recorders.remove(names)


@contextmanager
def compiling(compiler: Callable[[Any, tuple[Any, ...], dict[str, Any]], None]) -> Iterator[None]:
    """Hand kernels, arguments and options to ``compiler`` instead of starting them; results are left unwritten."""
    _compilers.append(compiler)
    try:
        yield
    finally:
        _compilers.remove(compiler)


def custom_op(name: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Register a function as the operation ``torch.ops.endcap.<name>``, opaque to ``torch.compile``.

    Args:
        name: of the operation.
        fake: same arguments; returns empty tensors of the shapes, types and devices that the operation returns.
    """

    def register(function: Callable[..., Any]) -> Any:
        operation = torch.library.custom_op(f"endcap::{name}", function, mutates_args=())
        operation.register_fake(fake)
        return operation

    return register


def power_of_two(value: int, least: int, most: int) -> int:
    """The smallest power of two that is at least ``value``, within ``least`` and ``most`` (powers of two)."""
    return min(max(triton.next_power_of_2(max(value, 1)), least), most)
