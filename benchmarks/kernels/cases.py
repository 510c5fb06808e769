"""What is measured: one kernel at one size, by several implementations of the same."""

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
    """For people: what the numbers mean."""
    scale: float
    """For the plot: a number that grows with the size."""
    implementations: dict[str, Callable[[], Any]]
    """By name; each computes the same. `torch.compile` of PLAIN is added on a GPU if ``compiled`` is given."""
    bytes: float
    """Least bytes to move: each input read once, each output written once."""
    operations: float = 0.0
    """Multiplications and additions of matrix products."""
    compiled: Callable[[], Callable[[], Any]] | None = None
    """Makes the implementation by torch.compile."""
    whole: bool = False
    """From ids on the host to scores on the host: timed by the clock, without capturing anything."""
    tolerance: float = 2e-2
    """Largest relative error (of norms) of other implementations to PLAIN."""


def compiled(function: Callable[..., Any], *args: Any, **named: Any) -> Callable[[], Callable[[], Any]]:
    """Makes ``function`` of these arguments, compiled for their shapes."""
    return lambda: partial(torch.compile(function, dynamic=False), *args, **named)


def random(*shape: int, device: str, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normally distributed numbers; timings on zeros flatter."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator)).to(dtype).to(device)


def offsets_of(sizes: np.ndarray, device: str) -> Tensor:
    """int32 [len(sizes) + 1]."""
    return torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)).to(device)


def pair_lengths(count: int, seed: int = 0, mean: float = 40.0, longest: int = 128) -> np.ndarray:
    """Token counts of pairs as shops have them: int64 [count], log-normal around a mean of 40, at most 128."""
    rng = np.random.default_rng(seed)
    spread = 0.5
    drawn = rng.lognormal(np.log(mean) - spread**2 / 2, spread, count)
    return np.clip(np.rint(drawn), 8, longest).astype(np.int64)


def relative_error(result: Any, expected: Any) -> float:
    """Norm of the difference over the norm of what is expected, of all finite numbers of tensors or tuples of them."""
    if not isinstance(expected, Tensor):
        pairs = zip(result, expected, strict=True)
        return max((relative_error(one, two) for one, two in pairs if one is not None), default=0.0)
    one, two = result.double().cpu().flatten(), expected.double().cpu().flatten()
    if one.shape != two.shape or not torch.equal(one.isnan(), two.isnan()):
        return float("inf")
    known = two.isfinite()
    return float((one[known] - two[known]).norm() / two[known].norm().clamp_min(1e-30))
