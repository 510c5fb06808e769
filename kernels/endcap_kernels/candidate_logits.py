"""The end of a listwise ranker: logits of some tokens only, at the last position of each prompt, in one launch.

A whole language-model head would compute the logits of all tokens of the vocabulary. A program adds the residual of one
prompt's last token, normalises the sum and multiplies it by the rows of a few candidates.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from endcap_kernels.checks import FLOATS, INTEGERS, check_positive, check_tensor
from endcap_kernels.dispatch import custom_op, launch, power_of_two, runs_kernel
from endcap_kernels.layer_norms import WIDEST, load_vector

CANDIDATES = 16
"""Of a program."""


def candidate_logits(
    x: Tensor, residual: Tensor, gamma: Tensor, heads: Tensor, counts: Tensor, eps: float = 1e-6
) -> Tensor:
    """Return RMSNorm(x + residual) @ heads.T, computed in float32, for the candidates that each prompt has.

    Args:
        x: last states of the last layer's feed-forward part, float32, bfloat16 or float16 [N, H], H at most 8192.
        residual: what is added to them, type and shape of ``x``.
        gamma: scale of the norm, type of ``x`` [H].
        heads: rows of the language-model head for the candidates' tokens, type of ``x`` [C, H].
        counts: candidates of each prompt, int32 or int64 [N].
        eps: added to the mean square; above 0.

    Returns:
        float32 [N, C]; NaN from the count on.

    Raises:
        ValueError: wrong shape, type, device or eps.
    """
    check_tensor("x", x, ["N", "H"], FLOATS)
    size = x.shape[1]
    if not 0 < size <= WIDEST:
        raise ValueError(f"x: expected H in 1..{WIDEST}, got {size}")
    check_tensor("residual", residual, list(x.shape), [x.dtype], x.device)
    check_tensor("gamma", gamma, [size], [x.dtype], x.device)
    check_tensor("heads", heads, ["C", size], [x.dtype], x.device)
    check_tensor("counts", counts, [len(x)], INTEGERS, x.device)
    result: Tensor = _candidate_logits(x, residual, gamma, heads, counts, check_positive("eps", eps))
    return result


def _empty_result(x: Tensor, residual: Tensor, gamma: Tensor, heads: Tensor, counts: Tensor, eps: float) -> Tensor:
    return x.new_empty((x.shape[0], heads.shape[0]), dtype=torch.float32)


@custom_op("candidate_logits", _empty_result)
def _candidate_logits(x: Tensor, residual: Tensor, gamma: Tensor, heads: Tensor, counts: Tensor, eps: float) -> Tensor:
    if not runs_kernel(x):
        total = x.float() + residual.float()
        logits = torch.nn.functional.rms_norm(total, x.shape[1:], gamma.float(), eps) @ heads.float().T
        return logits.masked_fill(torch.arange(len(heads), device=x.device) >= counts[:, None], torch.nan)
    result, size = _empty_result(x, residual, gamma, heads, counts, eps), x.shape[1]
    launch(
        _candidate_logits_kernel,
        (len(x), triton.cdiv(len(heads), CANDIDATES)),
        x.device,
        x.contiguous(),
        residual.contiguous(),
        gamma.contiguous(),
        heads.contiguous(),
        counts.contiguous(),
        result,
        len(heads),
        eps,
        SIZE=size,
        CANDIDATES=CANDIDATES,
        WIDTH=power_of_two(size, 16, 512),
        num_warps=4,
    )
    return result


@triton.jit
def _summed(x_ptr, residual_ptr, row, column, SIZE: tl.constexpr):
    """A chunk of x + residual of a row, float32 [WIDTH]; 0 behind its end."""
    place = row * SIZE + column
    values = tl.load(x_ptr + place, mask=column < SIZE, other=0.0).to(tl.float32)
    return values + tl.load(residual_ptr + place, mask=column < SIZE, other=0.0).to(tl.float32)


@triton.jit
def _candidate_logits_kernel(
    x_ptr,  # [N, SIZE]
    residual_ptr,  # [N, SIZE]
    gamma_ptr,  # [SIZE]
    heads_ptr,  # [candidates, SIZE]
    counts_ptr,  # int [N]
    result_ptr,  # float32 [N, candidates]
    candidates,
    eps,
    SIZE: tl.constexpr,
    CANDIDATES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    candidate = tl.program_id(1) * CANDIDATES + tl.arange(0, CANDIDATES)
    exists = candidate < tl.minimum(tl.load(counts_ptr + row).to(tl.int32), candidates)
    squares = tl.zeros([WIDTH], tl.float32)
    total = tl.zeros([CANDIDATES, WIDTH], tl.float32)
    for first in range(0, SIZE, WIDTH):
        column = first + tl.arange(0, WIDTH)
        values = _summed(x_ptr, residual_ptr, row, column, SIZE)
        squares += values * values
        place = heads_ptr + candidate.to(tl.int64)[:, None] * SIZE + column[None, :]
        head = tl.load(place, mask=exists[:, None] & (column < SIZE)[None, :], other=0.0).to(tl.float32)
        total += head * (values * load_vector(gamma_ptr, column, SIZE))[None, :]
    scale = tl.rsqrt(tl.sum(squares, axis=0) / SIZE + tl.full([], eps, tl.float32))
    logit = tl.where(exists, tl.sum(total, axis=1) * scale, float("nan"))
    tl.store(result_ptr + row * candidates + candidate, logit, mask=candidate < candidates)
