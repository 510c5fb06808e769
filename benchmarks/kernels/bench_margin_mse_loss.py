"""Forward and backward over ragged groups."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from endcap_kernels import margin_mse_loss
from references import reference_margin_mse_loss
from torch import Tensor

from benchmarks.kernels.cases import ENDCAP, PLAIN, KernelCase, offsets_of, random


def _both_ways(loss: Callable[..., Tensor], scores: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(scores, *rest)
    (gradient,) = torch.autograd.grad(value, scores)
    return value.detach(), gradient


def _compiled(*arguments: Tensor) -> Callable[[], Any]:
    return partial(_both_ways, torch.compile(reference_margin_mse_loss, dynamic=False), *arguments)


def cases(device: str, small: bool = False) -> Iterator[KernelCase]:
    for groups in (3,) if small else (64, 1024, 4096, 65536):
        lengths = np.random.default_rng(2).integers(8, 65, groups)
        offsets, count = offsets_of(lengths, device), int(lengths.sum())
        scores = random(count, device=device, seed=1).requires_grad_()
        arguments = (scores, random(count, device=device, seed=2), offsets)
        yield KernelCase(
            kernel="margin_mse_loss",
            size=f"{groups} groups of 8 to 64, forward and backward",
            scale=count,
            implementations={
                ENDCAP: partial(_both_ways, margin_mse_loss, *arguments),
                PLAIN: partial(_both_ways, reference_margin_mse_loss, *arguments),
            },
            compiled=partial(_compiled, *arguments),
            bytes=count * 4 * (2 + 2 + 1),
        )
