"""Inputs that the kernel tests share: where they run, and ragged groups of awkward sizes."""

import torch
from endcap_kernels.dispatch import INTERPRETED
from torch import Tensor

DEVICE = "cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda"
"""Where the Triton kernels run in this process: on the CPU in the interpreter, on a GPU compiled."""

SIZES = ([1], [2], [31], [111], [0, 0], [5, 0, 64, 1, 0, 65, 2], [0, 200, 3])
"""Group sizes: odd ones, empty groups in front, between and behind, one giant group among small ones."""


def offsets_of(sizes: list[int], dtype: torch.dtype = torch.int32) -> Tensor:
    """Offsets [len(sizes) + 1] on DEVICE."""
    return torch.tensor([0, *torch.tensor(sizes, dtype=torch.int64).cumsum(0).tolist()], dtype=dtype, device=DEVICE)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    """Random numbers on DEVICE."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator)).to(dtype).to(DEVICE)


def relative_error(result: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    difference = (result.double() - expected.double()).norm()
    return float(difference / expected.double().norm().clamp_min(1e-30))
