"""Checks of the arguments of the public functions: ValueError with what was expected and what came.

Values of tensors on a GPU are not checked, because that would wait for the GPU; shapes, types and devices always are.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""Input types of kernels; they accumulate in float32."""
INTEGERS = (torch.int32, torch.int64)


def check_tensor(
    name: str,
    tensor: Tensor,
    shape: Sequence[int | str],
    dtypes: Sequence[torch.dtype],
    device: torch.device | None = None,
) -> None:
    """Raise ValueError unless ``tensor`` has this shape (a name means any size), type and device."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    fits = len(shape) == tensor.ndim and all(
        isinstance(expected, str) or expected == got for expected, got in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{name}: expected shape [{', '.join(map(str, shape))}], got {list(tensor.shape)}")
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name}: expected {' or '.join(map(_short, dtypes))}, got {_short(tensor.dtype)}")
    if tensor.device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"{name}: expected a tensor on cuda or cpu, got {tensor.device}")
    if device is not None and tensor.device != device:
        raise ValueError(f"{name}: expected device {device}, where the first argument is, got {tensor.device}")


def check_offsets(offsets: Tensor, total: int, device: torch.device, to_the_end: bool = True) -> None:
    """Raise ValueError unless ``offsets`` can split ``total`` rows: int [G + 1], rising from 0 to ``total``.

    With ``to_the_end`` False, rows can remain after the last group. Values are checked on the CPU only; on a GPU, wrong
    values are undefined behaviour.
    """
    check_tensor("offsets", offsets, ["G + 1"], INTEGERS, device)
    if not len(offsets):
        raise ValueError("offsets: expected shape [G + 1], got [0]; no groups are the offsets [0]")
    if offsets.device.type != "cpu" or torch.compiler.is_compiling():
        return
    first, last = int(offsets[0]), int(offsets[-1])
    if first != 0 or last > total or (to_the_end and last < total):
        raise ValueError(f"offsets: expected to rise from 0 to {total}, got {first} to {last}")
    falls = offsets[1:] < offsets[:-1]
    if bool(falls.any()):
        place = int(torch.nonzero(falls)[0])
        raise ValueError(f"offsets: expected to rise, got {int(offsets[place])}, {int(offsets[place + 1])} at {place}")


def check_positive(name: str, value: float) -> float:
    """The value as a float; raises ValueError unless it is above 0 and finite."""
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: expected a finite number above 0, got {value}")
    return float(value)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
