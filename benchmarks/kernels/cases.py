"""The benchmark cases: one kernel at one size, in several equivalent implementations."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

ENDCAP, PLAIN, COMPILED = "endcap", "torch", "torch.compile"


@dataclass(frozen=True, eq=False)
class KernelCase:
    """A kernel at a size."""

    kernel: str
    size: str
    """Description of the size for readers."""
    scale: float
    """X coordinate in the plot: a number that grows with the size."""
    implementations: dict[str, Callable[[], Any]]
    """Equivalent implementations by name. On a GPU, `torch.compile` of PLAIN is added if ``compiled`` is given."""
    bytes: float
    """Lower bound of memory traffic in bytes: each input is read once, each output is written once."""
    operations: float = 0.0
    """Multiplications and additions of matrix products."""
    compiled: Callable[[], Callable[[], Any]] | None = None
    """Returns the implementation that uses torch.compile."""
    whole: bool = False
    """From ids on the host to scores on the host: timed by the clock, without a CUDA graph."""
    tolerance: float = 2e-2
    """Largest relative error (of norms) of other implementations to PLAIN."""


def compiled(function: Callable[..., Any], *args: Any, **named: Any) -> Callable[[], Callable[[], Any]]:
    """Makes ``function`` of these arguments, compiled for their shapes."""
    return lambda: partial(torch.compile(function, dynamic=False), *args, **named)


def random(*shape: int, device: str, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normally distributed numbers; kernels can run faster on zeros."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator)).to(dtype).to(device)


def offsets_of(sizes: np.ndarray, device: str) -> Tensor:
    """int32 [len(sizes) + 1]."""
    return torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)).to(device)


def pair_lengths(count: int, seed: int = 0, mean: float = 40.0, longest: int = 128) -> np.ndarray:
    """Realistic token counts of pairs: int64 [count], log-normal around a mean of 40, at most 128."""
    rng = np.random.default_rng(seed)
    spread = 0.5
    drawn = rng.lognormal(np.log(mean) - spread**2 / 2, spread, count)
    return np.clip(np.rint(drawn), 8, longest).astype(np.int64)


def relative_error(result: Any, expected: Any) -> float:
    """Norm of the difference divided by the norm of the expected values; finite numbers of tensors or tuples only."""
    if not isinstance(expected, Tensor):
        pairs = zip(result, expected, strict=True)
        return max((relative_error(one, two) for one, two in pairs if one is not None), default=0.0)
    one, two = result.double().cpu().flatten(), expected.double().cpu().flatten()
    if one.shape != two.shape or not torch.equal(one.isnan(), two.isnan()):
        return float("inf")
    known = two.isfinite()
    return float((one[known] - two[known]).norm() / two[known].norm().clamp_min(1e-30))
