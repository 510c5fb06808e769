"""The distillation loss on margins over ragged groups (arXiv 2505.07105), forward and backward, in closed form.

With d = score - target, weights w and W = sum(w) of a group, the double loop over the pairs of the group

    sum over i < j of w_i w_j ((s_i - s_j) - (t_i - t_j))^2  =  W * sum w (d - mean)^2,   mean = sum(w d) / W

is linear in the group's size; its gradient is 2 W w_i (d_i - mean). Centring first avoids cancellation if all scores of
a group have a large common offset.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from endcap_kernels.checks import FLOATS, check_offsets, check_tensor
from endcap_kernels.dispatch import custom_op, launch, power_of_two, runs_kernel

TILE = 512
"""Products of a program: several small groups, or a part of a large one."""
REDUCED = 1024
"""Partial sums that the last kernel adds at a time."""


def margin_mse_loss(
    scores: Tensor, targets: Tensor, offsets: Tensor, weights: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Weighted mean (or sum) of squared errors of margins over all pairs of products of the same group.

    Differentiable in scores and targets, once. A NaN or infinite score makes the loss NaN.

    Args:
        scores: student scores, float32, bfloat16, float16 or float64 [n]; computed in float32 (float64 in float64).
        targets: teacher scores, type and shape of ``scores``.
        offsets: int32 or int64 [G + 1], first row of each group, and n; groups may be empty.
        weights: weight of each product, at least 0, type and shape of ``scores``; 1 if not given. Not differentiable.
        reduction: "mean" over the pairs (0 if there are none), or "sum".

    Returns:
        Scalar, float32 (float64 for float64).

    Raises:
        ValueError: wrong shape, type, device or reduction, or weights that require a gradient.
    """
    check_tensor("scores", scores, ["n"], (*FLOATS, torch.float64))
    check_tensor("targets", targets, [len(scores)], [scores.dtype], scores.device)
    check_offsets(offsets, len(scores), scores.device)
    if weights is not None:
        check_tensor("weights", weights, [len(scores)], [scores.dtype], scores.device)
        if weights.requires_grad:
            raise ValueError("weights: expected a tensor without gradient, got one that requires it; detach it")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: expected mean or sum, got {reduction!r}")
    loss: Tensor = _margin_mse(scores, targets, offsets, weights, reduction == "mean")[0]
    return loss


def _accumulator(scores: Tensor) -> torch.dtype:
    return torch.float64 if scores.dtype == torch.float64 else torch.float32


def _empty_sums(
    scores: Tensor, targets: Tensor, offsets: Tensor, weights: Tensor | None, mean: bool
) -> tuple[Tensor, Tensor]:
    return scores.new_empty((), dtype=_accumulator(scores)), scores.new_empty((), dtype=_accumulator(scores))


@custom_op("margin_mse", _empty_sums)
def _margin_mse(
    scores: Tensor, targets: Tensor, offsets: Tensor, weights: Tensor | None, mean: bool
) -> tuple[Tensor, Tensor]:
    """The loss, and the divisor of the gradient."""
    groups = len(offsets) - 1
    if not len(scores):
        return scores.new_zeros((), dtype=_accumulator(scores)), scores.new_ones((), dtype=_accumulator(scores))
    if not runs_kernel(scores):
        squares, pairs = _sums_plain(scores, targets, offsets, weights)
        divisor = pairs.clamp_min(torch.finfo(pairs.dtype).tiny) if mean else torch.ones_like(pairs)
        return squares / divisor, divisor
    options = _tiles(len(scores), groups)
    programs = triton.cdiv(groups, options["GROUPS"])
    loss, divisor = _empty_sums(scores, targets, offsets, weights, mean)
    partial = scores.new_empty((2, programs), dtype=_accumulator(scores))
    inputs = [tensor.contiguous() for tensor in (scores, targets, scores if weights is None else weights, offsets)]
    wide = scores.dtype == torch.float64
    launch(
        _margin_mse_sums_kernel,
        (programs,),
        scores.device,
        *inputs,
        partial,
        groups,
        HAS_WEIGHTS=weights is not None,
        WIDE=wide,
        **options,
    )
    launch(
        _margin_mse_total_kernel,
        (1,),
        scores.device,
        partial,
        loss,
        divisor,
        programs,
        MEAN=mean,
        WIDE=wide,
        BLOCK=REDUCED,
        num_warps=4,
    )
    return loss, divisor


def _empty_gradient(
    gradient: Tensor, divisor: Tensor, scores: Tensor, targets: Tensor, offsets: Tensor, weights: Tensor | None
) -> Tensor:
    return scores.new_empty(scores.shape)


@custom_op("margin_mse_backward", _empty_gradient)
def _margin_mse_backward(
    gradient: Tensor, divisor: Tensor, scores: Tensor, targets: Tensor, offsets: Tensor, weights: Tensor | None
) -> Tensor:
    if not runs_kernel(scores):
        return _gradient_plain(gradient / divisor, scores, targets, offsets, weights)
    result, groups = scores.new_empty(scores.shape), len(offsets) - 1
    if not len(scores):
        return result
    options = _tiles(len(scores), groups)
    inputs = [tensor.contiguous() for tensor in (scores, targets, scores if weights is None else weights, offsets)]
    launch(
        _margin_mse_gradient_kernel,
        (triton.cdiv(groups, options["GROUPS"]),),
        scores.device,
        *inputs,
        gradient,
        divisor,
        result,
        groups,
        HAS_WEIGHTS=weights is not None,
        WIDE=scores.dtype == torch.float64,
        **options,
    )
    return result


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    scores, targets, offsets, weights, _ = inputs
    ctx.save_for_backward(scores, targets, offsets, weights, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor, _: Tensor | None) -> tuple:
    scores, targets, offsets, weights, divisor = ctx.saved_tensors  # type: ignore[attr-defined]
    of_scores = _margin_mse_backward(gradient.contiguous(), divisor, scores, targets, offsets, weights)
    return of_scores, -of_scores if ctx.needs_input_grad[1] else None, None, None, None  # type: ignore[attr-defined]


_margin_mse.register_autograd(_backward, setup_context=_save)


def _tiles(rows: int, groups: int) -> dict[str, int]:
    """Tile of [GROUPS, BLOCK] products, about as wide as the mean group, which the host knows."""
    block = power_of_two(3 * rows // (2 * groups), 16, TILE)
    return {"GROUPS": TILE // block, "BLOCK": block, "num_warps": 4}


@triton.jit
def _load_difference(scores_ptr, targets_ptr, weights_ptr, row, exists, HAS_WEIGHTS: tl.constexpr, DTYPE: tl.constexpr):
    """Score minus target, and the weight; both 0 without a product."""
    score = tl.load(scores_ptr + row, mask=exists, other=0.0).to(DTYPE)
    target = tl.load(targets_ptr + row, mask=exists, other=0.0).to(DTYPE)
    weight = exists.to(DTYPE)
    if HAS_WEIGHTS:
        weight = tl.load(weights_ptr + row, mask=exists, other=0.0).to(DTYPE)
    return score - target, weight


@triton.jit
def _group_means(
    scores_ptr,
    targets_ptr,
    weights_ptr,
    start,  # int64 [GROUPS]
    end,  # int64 [GROUPS]
    longest,
    HAS_WEIGHTS: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Sum of weights, sum over pairs of products of weights, and mean difference of each group."""
    total = tl.zeros([GROUPS], DTYPE)
    squared = tl.zeros([GROUPS], DTYPE)
    weighted = tl.zeros([GROUPS], DTYPE)
    for first in range(0, longest, BLOCK):
        row = start[:, None] + first + tl.arange(0, BLOCK)[None, :]
        difference, weight = _load_difference(
            scores_ptr, targets_ptr, weights_ptr, row, row < end[:, None], HAS_WEIGHTS, DTYPE
        )
        total += tl.sum(weight, axis=1)
        squared += tl.sum(weight * weight, axis=1)
        weighted += tl.sum(weight * difference, axis=1)
    mean = tl.where(total > 0, weighted / tl.where(total > 0, total, 1.0), 0.0)
    return total, 0.5 * (total * total - squared), mean


@triton.jit
def _margin_mse_sums_kernel(
    scores_ptr,  # [n]
    targets_ptr,  # [n]
    weights_ptr,  # [n]
    offsets_ptr,  # int [G + 1]
    partial_ptr,  # [2, programs]: squared errors, weight of the pairs
    groups,
    HAS_WEIGHTS: tl.constexpr,
    WIDE: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    DTYPE: tl.constexpr = tl.float64 if WIDE else tl.float32
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    start = tl.load(offsets_ptr + group, mask=group < groups, other=0).to(tl.int64)
    end = tl.load(offsets_ptr + group + 1, mask=group < groups, other=0).to(tl.int64)
    longest = tl.max(end - start, axis=0)
    total, pairs, mean = _group_means(
        scores_ptr, targets_ptr, weights_ptr, start, end, longest, HAS_WEIGHTS, GROUPS, BLOCK, DTYPE
    )
    squares = tl.zeros([GROUPS], DTYPE)
    for first in range(0, longest, BLOCK):
        row = start[:, None] + first + tl.arange(0, BLOCK)[None, :]
        exists = row < end[:, None]
        difference, weight = _load_difference(scores_ptr, targets_ptr, weights_ptr, row, exists, HAS_WEIGHTS, DTYPE)
        centred = tl.where(exists, difference - mean[:, None], 0.0)
        squares += tl.sum(weight * centred * centred, axis=1)
    # Groups of one have no pairs; ignore their rounding errors.
    squares = tl.where(pairs > 0, total * squares, 0.0)
    tl.store(partial_ptr + tl.program_id(0), tl.sum(squares, axis=0))
    tl.store(partial_ptr + tl.num_programs(0) + tl.program_id(0), tl.sum(pairs, axis=0))


@triton.jit
def _margin_mse_total_kernel(
    partial_ptr,  # [2, programs]
    loss_ptr,  # scalar
    divisor_ptr,  # scalar
    programs,
    MEAN: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program adds the partial sums in a fixed order: the same result in every run."""
    DTYPE: tl.constexpr = tl.float64 if WIDE else tl.float32
    squares = tl.zeros([BLOCK], DTYPE)
    pairs = tl.zeros([BLOCK], DTYPE)
    for first in range(0, programs, BLOCK):
        place = first + tl.arange(0, BLOCK)
        squares += tl.load(partial_ptr + place, mask=place < programs, other=0.0)
        pairs += tl.load(partial_ptr + programs + place, mask=place < programs, other=0.0)
    divisor = tl.sum(pairs, axis=0)
    divisor = tl.where(divisor > 0, divisor, 1.0) if MEAN else divisor * 0 + 1
    tl.store(loss_ptr, tl.sum(squares, axis=0) / divisor)
    tl.store(divisor_ptr, divisor)


@triton.jit
def _margin_mse_gradient_kernel(
    scores_ptr,  # [n]
    targets_ptr,  # [n]
    weights_ptr,  # [n]
    offsets_ptr,  # int [G + 1]
    gradient_ptr,  # scalar: gradient of the loss
    divisor_ptr,  # scalar
    result_ptr,  # [n]
    groups,
    HAS_WEIGHTS: tl.constexpr,
    WIDE: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    DTYPE: tl.constexpr = tl.float64 if WIDE else tl.float32
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    start = tl.load(offsets_ptr + group, mask=group < groups, other=0).to(tl.int64)
    end = tl.load(offsets_ptr + group + 1, mask=group < groups, other=0).to(tl.int64)
    longest = tl.max(end - start, axis=0)
    total, pairs, mean = _group_means(
        scores_ptr, targets_ptr, weights_ptr, start, end, longest, HAS_WEIGHTS, GROUPS, BLOCK, DTYPE
    )
    factor = 2.0 * tl.load(gradient_ptr).to(DTYPE) / tl.load(divisor_ptr)
    slope = tl.where(pairs > 0, factor * total, 0.0)
    for first in range(0, longest, BLOCK):
        row = start[:, None] + first + tl.arange(0, BLOCK)[None, :]
        exists = row < end[:, None]
        difference, weight = _load_difference(scores_ptr, targets_ptr, weights_ptr, row, exists, HAS_WEIGHTS, DTYPE)
        result = slope[:, None] * weight * (difference - mean[:, None])
        tl.store(result_ptr + row, result.to(result_ptr.dtype.element_ty), mask=exists)


def _group_terms(
    scores: Tensor, targets: Tensor, offsets: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Centred difference and weight of each product, its group, sum and pairs' sum of each group's weights."""
    dtype, groups = _accumulator(scores), len(offsets) - 1
    sizes = offsets[1:] - offsets[:-1]
    group = torch.repeat_interleave(torch.arange(groups, device=scores.device), sizes, output_size=len(scores))
    difference = scores.to(dtype) - targets.to(dtype)
    weight = torch.ones_like(difference) if weights is None else weights.to(dtype)

    def summed(values: Tensor) -> Tensor:
        return values.new_zeros(groups).index_add(0, group, values)

    total = summed(weight)
    mean = summed(weight * difference) / torch.where(total > 0, total, 1)
    return difference - mean[group], weight, group, total, 0.5 * (total**2 - summed(weight**2))


def _sums_plain(scores: Tensor, targets: Tensor, offsets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    centred, weight, group, total, pairs = _group_terms(scores, targets, offsets, weights)
    squares = total * torch.zeros_like(total).index_add(0, group, weight * centred**2)
    return torch.where(pairs > 0, squares, 0).sum(), pairs.sum()


def _gradient_plain(factor: Tensor, scores: Tensor, targets: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
    centred, weight, group, total, pairs = _group_terms(scores, targets, offsets, weights)
    slope = torch.where(pairs > 0, 2 * factor * total, 0)
    return (slope[group] * weight * centred).to(scores.dtype)
