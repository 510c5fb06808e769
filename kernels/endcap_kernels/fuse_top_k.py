"""Fusion of the signals of ranked products, and the best k of each query, in one launch.

    fused_i = boost_i * (v * relevance_i + u * ranker_i) / (v + u)

with the weights (v, u) of the query; a signal that is NaN is left out of the mean. The rank of a product is the number
of products of its query that beat it (ties: the earlier product first), counted tile by tile on the chip.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from endcap_kernels.checks import FLOATS, INTEGERS, check_offsets, check_tensor
from endcap_kernels.dispatch import custom_op, launch, power_of_two, runs_kernel
from endcap_kernels.ragged import find_group, search_steps, slots

BLOCK, OTHERS = 32, 64
"""Products of a program, and products with which they are compared at a time."""


class TopK(NamedTuple):
    """Result of `fuse_top_k`."""

    fused: Tensor
    """float32 [n]; NaN where masked, or where no signal is known."""
    row: Tensor
    """int64 [G, K]: rows of the best products, the best first; -1 padded."""
    score: Tensor
    """float32 [G, K]: their fused scores; NaN padded."""


def fuse_top_k(
    relevance: Tensor,
    offsets: Tensor,
    k: int | Tensor,
    weights: Tensor,
    ranker: Tensor | None = None,
    boosts: Tensor | None = None,
    mask: Tensor | None = None,
    max_k: int | None = None,
) -> TopK:
    """Fuse the signals of all products and choose the best of each query.

    Args:
        relevance: float32, bfloat16 or float16 [n]; NaN where unknown.
        offsets: int32 or int64 [G + 1], first row of each query's products, and n; groups may be empty.
        k: number of products to choose, for all queries, or int32 or int64 [G].
        weights: float32 [2] or [G, 2], of relevance and ranker, at least 0.
        ranker: scores of the ranking model, type and shape of ``relevance``; NaN where unknown; none if not given.
        boosts: float32 [n], factors; 1 if not given.
        mask: bool [n], products that may be chosen; all if not given.
        max_k: columns of the result, K; by default ``k``; required if that is a tensor. Higher k are reduced to it.

    Raises:
        ValueError: wrong shape, type, device or k.
    """
    check_tensor("relevance", relevance, ["n"], FLOATS)
    device, rows = relevance.device, len(relevance)
    check_offsets(offsets, rows, device)
    groups = len(offsets) - 1
    check_tensor("weights", weights, [2] if weights.ndim == 1 else [groups, 2], [torch.float32], device)
    if ranker is not None:
        check_tensor("ranker", ranker, [rows], [relevance.dtype], device)
    if boosts is not None:
        check_tensor("boosts", boosts, [rows], [torch.float32], device)
    if mask is not None:
        check_tensor("mask", mask, [rows], [torch.bool], device)
    if isinstance(k, Tensor):
        check_tensor("k", k, [groups], INTEGERS, device)
        if max_k is None:
            raise ValueError("max_k: expected a number where k is a tensor, got none; give the largest k")
    else:
        max_k = k if max_k is None else max_k
    if max_k < 0 or (not isinstance(k, Tensor) and k < 0):
        raise ValueError(f"k: expected at least 0, got {max_k if isinstance(k, Tensor) else min(k, max_k)}")
    limits, limit = (k, max_k) if isinstance(k, Tensor) else (None, min(k, max_k))
    return TopK(*_fuse_top_k(relevance, offsets, weights, ranker, boosts, mask, limits, limit, max_k))


def _empty_results(
    relevance: Tensor,
    offsets: Tensor,
    weights: Tensor,
    ranker: Tensor | None,
    boosts: Tensor | None,
    mask: Tensor | None,
    limits: Tensor | None,
    limit: int,
    width: int,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (offsets.shape[0] - 1, width)
    fused = relevance.new_empty(relevance.shape, dtype=torch.float32)
    return fused, relevance.new_empty(shape, dtype=torch.int64), relevance.new_empty(shape, dtype=torch.float32)


@custom_op("fuse_top_k", _empty_results)
def _fuse_top_k(
    relevance: Tensor,
    offsets: Tensor,
    weights: Tensor,
    ranker: Tensor | None,
    boosts: Tensor | None,
    mask: Tensor | None,
    limits: Tensor | None,
    limit: int,
    width: int,
) -> tuple[Tensor, Tensor, Tensor]:
    results = _empty_results(relevance, offsets, weights, ranker, boosts, mask, limits, limit, width)
    groups = len(offsets) - 1
    if not runs_kernel(relevance):
        _fuse_top_k_plain(results, relevance, offsets, weights, ranker, boosts, mask, limits, limit)
        return results

    def pointer(tensor: Tensor | None) -> Tensor:
        return relevance if tensor is None else tensor.contiguous()

    if groups:
        launch(
            _fuse_top_k_kernel,
            (slots(len(relevance), groups, BLOCK),),
            relevance.device,
            pointer(relevance),
            pointer(ranker),
            pointer(boosts),
            pointer(None if mask is None else mask.view(torch.uint8)),
            weights.contiguous(),
            pointer(limits),
            offsets.contiguous(),
            *results,
            groups,
            limit,
            width,
            WEIGHT_STRIDE=0 if weights.ndim == 1 else 2,
            HAS_RANKER=ranker is not None,
            HAS_BOOSTS=boosts is not None,
            HAS_MASK=mask is not None,
            HAS_LIMITS=limits is not None,
            BLOCK=BLOCK,
            OTHERS=OTHERS,
            PADDING=power_of_two(width, 16, 1024),
            STEPS=search_steps(groups),
            num_warps=4,
        )
    return results


@triton.jit
def _fused(
    relevance_ptr,
    ranker_ptr,
    boosts_ptr,
    mask_ptr,
    row,
    exists,
    relevance_weight,
    ranker_weight,
    HAS_RANKER: tl.constexpr,
    HAS_BOOSTS: tl.constexpr,
    HAS_MASK: tl.constexpr,
):
    """Fused scores of some rows; NaN if a row does not exist, is masked, or has no known signal."""
    value = tl.load(relevance_ptr + row, mask=exists, other=float("nan")).to(tl.float32)
    weight = tl.where(value == value, relevance_weight, 0.0)
    fused = tl.where(weight > 0, weight * value, 0.0)
    if HAS_RANKER:
        other = tl.load(ranker_ptr + row, mask=exists, other=float("nan")).to(tl.float32)
        other_weight = tl.where(other == other, ranker_weight, 0.0)
        fused += tl.where(other_weight > 0, other_weight * other, 0.0)
        weight += other_weight
    fused /= tl.where(weight > 0, weight, 1.0)
    if HAS_BOOSTS:
        fused *= tl.load(boosts_ptr + row, mask=exists, other=0.0)
    allowed = weight > 0
    if HAS_MASK:
        allowed = allowed & (tl.load(mask_ptr + row, mask=exists, other=0) != 0)
    return tl.where(allowed, fused, float("nan"))


@triton.jit
def _fuse_top_k_kernel(
    relevance_ptr,  # [n]
    ranker_ptr,  # [n]
    boosts_ptr,  # float32 [n]
    mask_ptr,  # uint8 [n]
    weights_ptr,  # float32 [2] or [G, 2]
    limits_ptr,  # int [G]
    offsets_ptr,  # int [G + 1]
    fused_ptr,  # float32 [n]
    top_row_ptr,  # int64 [G, width]
    top_score_ptr,  # float32 [G, width]
    groups,
    limit,
    width,
    WEIGHT_STRIDE: tl.constexpr,
    HAS_RANKER: tl.constexpr,
    HAS_BOOSTS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_LIMITS: tl.constexpr,
    BLOCK: tl.constexpr,
    OTHERS: tl.constexpr,
    PADDING: tl.constexpr,
    STEPS: tl.constexpr,
):
    group, part = find_group(offsets_ptr, tl.program_id(0), groups, BLOCK, STEPS)
    start = tl.load(offsets_ptr + group).to(tl.int64)
    size = (tl.load(offsets_ptr + group + 1).to(tl.int64) - start).to(tl.int32)
    if (part == 0) | (part.to(tl.int32) * BLOCK < size):
        relevance_weight = tl.load(weights_ptr + group * WEIGHT_STRIDE)
        ranker_weight = tl.load(weights_ptr + group * WEIGHT_STRIDE + 1)
        most = limit + group * 0
        if HAS_LIMITS:
            most = tl.minimum(tl.maximum(tl.load(limits_ptr + group).to(tl.int64), 0), width)
        own = part.to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
        mine = _fused(
            relevance_ptr + start,
            ranker_ptr + start,
            boosts_ptr + start,
            mask_ptr + start,
            own,
            own < size,
            relevance_weight,
            ranker_weight,
            HAS_RANKER,
            HAS_BOOSTS,
            HAS_MASK,
        )
        place = tl.zeros([BLOCK], tl.int32)
        eligible = tl.zeros([OTHERS], tl.int32)
        for first in range(0, size, OTHERS):
            row = first + tl.arange(0, OTHERS)
            theirs = _fused(
                relevance_ptr + start,
                ranker_ptr + start,
                boosts_ptr + start,
                mask_ptr + start,
                row,
                row < size,
                relevance_weight,
                ranker_weight,
                HAS_RANKER,
                HAS_BOOSTS,
                HAS_MASK,
            )
            equal = (theirs[None, :] == mine[:, None]) & (row[None, :] < own[:, None])
            place += tl.sum(((theirs[None, :] > mine[:, None]) | equal).to(tl.int32), axis=1)
            eligible += (theirs == theirs).to(tl.int32)
        tl.store(fused_ptr + start + own, mine, mask=own < size)
        chosen = (mine == mine) & (place < most)
        tl.store(top_row_ptr + group * width + place, start + own, mask=chosen)
        tl.store(top_score_ptr + group * width + place, mine, mask=chosen)
        if part == 0:
            filled = tl.minimum(tl.sum(eligible, axis=0), most)
            for left in range(0, width, PADDING):
                column = left + tl.arange(0, PADDING)
                empty = (column >= filled) & (column < width)
                nothing = tl.full([PADDING], float("nan"), tl.float32)
                tl.store(top_row_ptr + group * width + column, -1 + tl.zeros([PADDING], tl.int64), mask=empty)
                tl.store(top_score_ptr + group * width + column, nothing, mask=empty)


def _fuse_top_k_plain(
    results: tuple[Tensor, Tensor, Tensor],
    relevance: Tensor,
    offsets: Tensor,
    weights: Tensor,
    ranker: Tensor | None,
    boosts: Tensor | None,
    mask: Tensor | None,
    limits: Tensor | None,
    limit: int,
) -> None:
    """Group by group in PyTorch, for the CPU; fills ``results``."""
    fused, top_row, top_score = results
    top_row.fill_(-1)
    top_score.fill_(torch.nan)
    bounds, width = offsets.tolist(), top_row.shape[1]
    signals = [relevance] if ranker is None else [relevance, ranker]
    values = torch.stack([signal.float() for signal in signals], 1)
    for group, (start, end) in enumerate(pairwise(bounds)):
        part = values[start:end]
        used = (weights if weights.ndim == 1 else weights[group])[: len(signals)] * ~part.isnan()
        score = torch.where(used > 0, used * part, 0).sum(1) / torch.where(used.sum(1) > 0, used.sum(1), 1)
        if boosts is not None:
            score = score * boosts[start:end]
        allowed = used.sum(1) > 0
        if mask is not None:
            allowed = allowed & mask[start:end]
        fused[start:end] = torch.where(allowed, score, torch.nan)
        candidates = torch.nonzero(~fused[start:end].isnan())[:, 0] + start
        order = candidates[fused[candidates].argsort(descending=True, stable=True)]
        count = limit if limits is None else min(max(int(limits[group]), 0), width)
        order = order[:count]
        top_row[group, : len(order)] = order
        top_score[group, : len(order)] = fused[order]
