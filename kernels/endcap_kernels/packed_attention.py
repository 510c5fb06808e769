"""Bidirectional attention within packed sequences of different lengths, without padding or a score matrix in memory.

A program compares 64 (or 128) queries of one head of one sequence with all keys of the sequence, 64 at a time, with the
running maximum and sum of the online softmax (Milakov and Gimelshein, arXiv 1805.02867; FlashAttention, arXiv
2205.14135). Each sequence starts at a tile border, so its result does not depend on the batch.
"""

import math
from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from endcap_kernels.checks import FLOATS, check_offsets, check_tensor
from endcap_kernels.dispatch import custom_op, launch, runs_kernel
from endcap_kernels.functions import dot
from endcap_kernels.ragged import find_group, search_steps, slots

HEAD_SIZES = (32, 64)
LONG = 128
"""Mean length from which programs take 128 queries, so that keys are read half as often."""


def packed_attention(qkv: Tensor, offsets: Tensor) -> Tensor:
    """Attention of each token to all tokens of its sequence, with the scale 1 / sqrt(D).

    Args:
        qkv: queries, keys and values, float32, bfloat16 or float16 [tokens, 3, heads, D], D 32 or 64.
        offsets: int32 or int64 [N + 1], first token of each sequence, and the end of the last; sequences can be empty.

    Returns:
        Type of ``qkv`` [tokens, heads * D]; softmax and sums in float32. Results of tokens after the last sequence,
        which pad a bucket, are undefined.

    Raises:
        ValueError: wrong shape, type or device.
    """
    check_tensor("qkv", qkv, ["tokens", 3, "heads", "D"], FLOATS)
    if qkv.shape[3] not in HEAD_SIZES:
        raise ValueError(f"qkv: expected a head size D of 32 or 64, got {qkv.shape[3]}")
    check_offsets(offsets, len(qkv), qkv.device, to_the_end=False)
    result: Tensor = _packed_attention(qkv, offsets)
    return result


def _empty_result(qkv: Tensor, offsets: Tensor) -> Tensor:
    return qkv.new_empty((qkv.shape[0], qkv.shape[2] * qkv.shape[3]))


@custom_op("packed_attention", _empty_result)
def _packed_attention(qkv: Tensor, offsets: Tensor) -> Tensor:
    if not runs_kernel(qkv):
        return _packed_attention_plain(qkv, offsets)
    # A slice of a wider matrix is valid: only the values of a token must be contiguous.
    tokens, _, heads, size = qkv.shape
    if qkv.stride()[1:] != (heads * size, size, 1):
        qkv = qkv.contiguous()
    result, groups = _empty_result(qkv, offsets), len(offsets) - 1
    if not tokens:
        return result
    options = configuration(tokens / groups, qkv.dtype)
    launch(
        _packed_attention_kernel,
        (slots(tokens, groups, options["BLOCK_M"]), heads),
        qkv.device,
        qkv,
        offsets.contiguous(),
        result,
        groups,
        qkv.stride(0),
        math.log2(math.e) / math.sqrt(size),
        HEADS=heads,
        SIZE=size,
        STEPS=search_steps(groups),
        **options,
    )
    return result


def configuration(mean_length: float, dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes. Keys of a step and rows of a warp are fixed, so a row's sums do not depend on the batch."""
    if dtype == torch.float32:
        return {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 1}
    if mean_length < LONG:
        return {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2}
    return {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2}


@triton.jit
def _packed_attention_kernel(
    qkv_ptr,  # [tokens, 3, HEADS, SIZE], tokens stride_token apart
    offsets_ptr,  # int [groups + 1]
    result_ptr,  # [tokens, HEADS * SIZE]
    groups,
    stride_token,
    scale,  # of exponents to the base 2
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    group, part = find_group(offsets_ptr, tl.program_id(0), groups, BLOCK_M, STEPS)
    start = tl.load(offsets_ptr + group).to(tl.int64)
    length = (tl.load(offsets_ptr + group + 1).to(tl.int64) - start).to(tl.int32)
    own = part.to(tl.int32) * BLOCK_M + tl.arange(0, BLOCK_M)
    head = tl.program_id(1)
    if part.to(tl.int32) * BLOCK_M < length:
        lane = tl.arange(0, SIZE)
        factor = tl.full([], scale, tl.float32)
        queries = qkv_ptr + (start + own)[:, None] * stride_token + head * SIZE + lane[None, :]
        query = tl.load(queries, mask=(own < length)[:, None], other=0.0)
        largest = tl.full([BLOCK_M], -float("inf"), tl.float32)
        weight = tl.zeros([BLOCK_M], tl.float32)
        total = tl.zeros([BLOCK_M, SIZE], tl.float32)
        for first in range(0, length, BLOCK_N):
            row = first + tl.arange(0, BLOCK_N)
            place = qkv_ptr + (start + row) * stride_token + (HEADS + head) * SIZE
            key = tl.load(place[None, :] + lane[:, None], mask=(row < length)[None, :], other=0.0)
            score = dot(query, key, tl.zeros([BLOCK_M, BLOCK_N], tl.float32)) * factor
            score = tl.where((row < length)[None, :], score, -float("inf"))
            # Every step has a key, so the maximum is finite if the inputs are.
            now = tl.maximum(largest, tl.max(score, axis=1))
            share = tl.exp2(score - now[:, None])
            decay = tl.exp2(largest - now)
            weight = weight * decay + tl.sum(share, axis=1)
            place = place + HEADS * SIZE
            value = tl.load(place[:, None] + lane[None, :], mask=(row < length)[:, None], other=0.0)
            total = dot(share.to(value.dtype), value, total * decay[:, None])
            largest = now
        result = (total / weight[:, None]).to(result_ptr.dtype.element_ty)
        place = result_ptr + (start + own)[:, None] * (HEADS * SIZE) + head * SIZE + lane[None, :]
        tl.store(place, result, mask=(own < length)[:, None])


def _packed_attention_plain(qkv: Tensor, offsets: Tensor) -> Tensor:
    """Sequence by sequence in PyTorch, for the CPU."""
    result, bounds = _empty_result(qkv, offsets), offsets.tolist()
    for start, end in pairwise(bounds):
        if start < end:
            query, key, value = qkv[start:end].permute(1, 2, 0, 3)
            attended = torch.nn.functional.scaled_dot_product_attention(query[None], key[None], value[None])
            result[start:end] = attended[0].transpose(0, 1).reshape(end - start, -1)
    return result
