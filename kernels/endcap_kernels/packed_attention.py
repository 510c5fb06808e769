"""Attention within packed sequences of different lengths, without padding or a score matrix in memory.

A program compares a tile of queries of one head of one sequence with the keys of the sequence, 64 at a time, with the
running maximum and sum of the online softmax (Milakov and Gimelshein, arXiv 1805.02867; FlashAttention, arXiv
2205.14135). Each sequence starts at a tile border, so its result does not depend on the batch.

Which sequence and part a program computes stands in a tile map. The host, which knows the lengths, makes it once for
all layers; so the kernel is compiled once for each tile size, not for each number of sequences.
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
from endcap_kernels.ragged import slots

HEAD_SIZES = (32, 64, 128)
LONG = 128
"""Mean length from which programs take 128 queries, so that keys are read half as often."""


def packed_attention(qkv: Tensor, offsets: Tensor, tiles: Tensor | None = None) -> Tensor:
    """Attention of each token to all tokens of its sequence, with the scale 1 / sqrt(D).

    Args:
        qkv: queries, keys and values, float32, bfloat16 or float16 [tokens, 3, heads, D], D 32, 64 or 128.
        offsets: int32 or int64 [N + 1], first token of each sequence, and the end of the last; sequences can be empty.
        tiles: `tile_map` of the offsets; computed if not given.

    Returns:
        Type of ``qkv`` [tokens, heads * D]; softmax and sums in float32. Results of tokens after the last sequence,
        which pad a bucket, are undefined.

    Raises:
        ValueError: wrong shape, type or device.
    """
    check_tensor("qkv", qkv, ["tokens", 3, "heads", "D"], FLOATS)
    heads, size = qkv.shape[2:]
    # A slice of a wider matrix is valid: only the values of a token must be contiguous.
    if qkv.stride()[1:] != (heads * size, size, 1):
        qkv = qkv.contiguous()
    flat = qkv.as_strided((len(qkv), 3 * heads, size), (qkv.stride(0), size, 1))
    return _checked(flat, heads, offsets, tiles, 1.0, causal=False)


def causal_attention(
    qkv: Tensor, heads: int, offsets: Tensor, tiles: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """Attention of each token to itself and those before it in its sequence, with grouped heads.

    Args:
        qkv: float32, bfloat16 or float16 [tokens, heads + 2 * key heads, D]: all queries, all keys, all values.
        heads: heads of queries, a multiple of the key heads; neighbours share a key head.
        offsets: see `packed_attention`, as are ``tiles`` and the result.
        tiles: see there.
        scale: factor of the scale 1 / sqrt(D), for heads that are padded with zeros.

    Raises:
        ValueError: wrong shape, type or device.
    """
    check_tensor("qkv", qkv, ["tokens", "heads + 2 * key heads", "D"], FLOATS)
    rest = qkv.shape[1] - heads
    if heads < 1 or rest < 2 or rest % 2 or heads % (rest // 2):
        raise ValueError(f"heads: expected a multiple of the key heads, got {heads} of {qkv.shape[1]} in qkv")
    qkv = qkv if qkv.stride()[1:] == (qkv.shape[2], 1) else qkv.contiguous()
    return _checked(qkv, heads, offsets, tiles, scale, causal=True)


def tile_map(offsets: Tensor, tokens: int, dtype: torch.dtype) -> Tensor:
    """Sequence and part that each program of `packed_attention` computes; sequence -1 for spare programs.

    Args:
        offsets: int32 or int64 [N + 1], on the host or a GPU, for which nothing here waits.
        tokens: number of tokens, those that pad a bucket included.
        dtype: of the queries, which determines the tiles.

    Returns:
        int32 [`tile_count`, 2], on the device of ``offsets``.
    """
    groups = len(offsets) - 1
    block, count = tile_rows(tokens, groups, dtype), tile_count(tokens, groups, dtype)
    if not groups:
        return torch.full((count, 2), -1, dtype=torch.int32, device=offsets.device)
    starts = offsets[:-1].long()
    first = starts // block + torch.arange(groups, device=offsets.device)
    slot = torch.arange(count, device=offsets.device)
    group = torch.searchsorted(first, slot, right=True) - 1
    part = slot - first[group]
    used = part * block < (offsets[1:].long() - starts)[group]
    return torch.stack([torch.where(used, group, -1), part], 1).int()


def tile_rows(tokens: int, groups: int, dtype: torch.dtype) -> int:
    """Queries of a program."""
    return configuration(tokens / max(groups, 1), dtype)["BLOCK_M"]


def tile_count(tokens: int, groups: int, dtype: torch.dtype) -> int:
    """Programs for each head: enough for any lengths with this sum."""
    return slots(tokens, groups, tile_rows(tokens, groups, dtype))


def configuration(mean_length: float, dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes. Keys of a step and rows of a warp are fixed, so a row's sums do not depend on the batch."""
    if dtype == torch.float32:
        return {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 1}
    if mean_length < LONG:
        return {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2}
    return {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2}


def _checked(qkv: Tensor, heads: int, offsets: Tensor, tiles: Tensor | None, scale: float, causal: bool) -> Tensor:
    if qkv.shape[2] not in HEAD_SIZES:
        raise ValueError(f"qkv: expected a head size D of 32, 64 or 128, got {qkv.shape[2]}")
    check_offsets(offsets, len(qkv), qkv.device, to_the_end=False)
    if tiles is None:
        tiles = tile_map(offsets, len(qkv), qkv.dtype)
    count = tile_count(len(qkv), len(offsets) - 1, qkv.dtype)
    check_tensor("tiles", tiles, [count, 2], [torch.int32], qkv.device)
    result: Tensor = _packed_attention(qkv, heads, offsets, tiles, scale, causal)
    return result


def _empty_result(qkv: Tensor, heads: int, offsets: Tensor, tiles: Tensor, scale: float, causal: bool) -> Tensor:
    return qkv.new_empty((qkv.shape[0], heads * qkv.shape[2]))


@custom_op("packed_attention", _empty_result)
def _packed_attention(qkv: Tensor, heads: int, offsets: Tensor, tiles: Tensor, scale: float, causal: bool) -> Tensor:
    if not runs_kernel(qkv):
        return _packed_attention_plain(qkv, heads, offsets, scale, causal)
    tokens, lanes, size = qkv.shape
    result, groups = _empty_result(qkv, heads, offsets, tiles, scale, causal), len(offsets) - 1
    if not tokens or not groups:
        return result
    options = configuration(tokens / groups, qkv.dtype)
    launch(
        _packed_attention_kernel,
        (len(tiles), heads),
        qkv.device,
        qkv,
        offsets.contiguous(),
        tiles.contiguous(),
        result,
        qkv.stride(0),
        scale * math.log2(math.e) / math.sqrt(size),
        HEADS=heads,
        KEY_HEADS=(lanes - heads) // 2,
        SIZE=size,
        CAUSAL=causal,
        **options,
    )
    return result


@triton.jit
def _packed_attention_kernel(
    qkv_ptr,  # [tokens, HEADS + 2 * KEY_HEADS, SIZE], tokens stride_token apart
    offsets_ptr,  # int [groups + 1]
    tiles_ptr,  # int32 [programs, 2]: group or -1, part
    result_ptr,  # [tokens, HEADS * SIZE]
    stride_token,
    scale,  # of exponents to the base 2
    HEADS: tl.constexpr,
    KEY_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    CAUSAL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    group = tl.load(tiles_ptr + 2 * tl.program_id(0))
    head = tl.program_id(1)
    if group >= 0:
        begin = tl.load(tiles_ptr + 2 * tl.program_id(0) + 1) * BLOCK_M
        start = tl.load(offsets_ptr + group).to(tl.int64)
        length = (tl.load(offsets_ptr + group + 1).to(tl.int64) - start).to(tl.int32)
        own = begin + tl.arange(0, BLOCK_M)
        lane = tl.arange(0, SIZE)
        factor = tl.full([], scale, tl.float32)
        queries = qkv_ptr + (start + own)[:, None] * stride_token + head * SIZE + lane[None, :]
        query = tl.load(queries, mask=(own < length)[:, None], other=0.0)
        largest = tl.full([BLOCK_M], -float("inf"), tl.float32)
        weight = tl.zeros([BLOCK_M], tl.float32)
        total = tl.zeros([BLOCK_M, SIZE], tl.float32)
        keys = (HEADS + head // (HEADS // KEY_HEADS)) * SIZE
        end = length
        if CAUSAL:
            end = tl.minimum(length, begin + BLOCK_M)
        for first in range(0, end, BLOCK_N):
            row = first + tl.arange(0, BLOCK_N)
            place = qkv_ptr + (start + row) * stride_token + keys
            key = tl.load(place[None, :] + lane[:, None], mask=(row < length)[None, :], other=0.0)
            score = dot(query, key, tl.zeros([BLOCK_M, BLOCK_N], tl.float32)) * factor
            seen = (row < length)[None, :]
            if CAUSAL:
                seen = seen & (row[None, :] <= own[:, None])
            score = tl.where(seen, score, -float("inf"))
            # The first step has a key that each query sees, so the maximum is finite if the inputs are.
            now = tl.maximum(largest, tl.max(score, axis=1))
            share = tl.exp2(score - now[:, None])
            decay = tl.exp2(largest - now)
            weight = weight * decay + tl.sum(share, axis=1)
            value = tl.load(place[:, None] + KEY_HEADS * SIZE + lane[None, :], mask=(row < length)[:, None], other=0.0)
            total = dot(share.to(value.dtype), value, total * decay[:, None])
            largest = now
        result = (total / weight[:, None]).to(result_ptr.dtype.element_ty)
        place = result_ptr + (start + own)[:, None] * (HEADS * SIZE) + head * SIZE + lane[None, :]
        tl.store(place, result, mask=(own < length)[:, None])


def _packed_attention_plain(qkv: Tensor, heads: int, offsets: Tensor, scale: float, causal: bool) -> Tensor:
    """Sequence by sequence in PyTorch, for the CPU."""
    result = qkv.new_empty((len(qkv), heads * qkv.shape[2]))
    key_heads = (qkv.shape[1] - heads) // 2
    for start, end in pairwise(offsets.tolist()):
        if start < end:
            query, key, value = qkv[start:end].transpose(0, 1).split([heads, key_heads, key_heads])
            key, value = (part.repeat_interleave(heads // key_heads, 0) for part in (key, value))
            attended = torch.nn.functional.scaled_dot_product_attention(
                query[None], key[None], value[None], is_causal=causal, scale=scale / math.sqrt(qkv.shape[2])
            )
            result[start:end] = attended[0].transpose(0, 1).reshape(end - start, -1)
    return result
