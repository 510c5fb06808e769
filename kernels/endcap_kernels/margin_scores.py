"""From the last hidden states of packed sequences to one score each, in one launch.

    score_n = v . tanh(W h_n + b) + c,   h_n the state of the first token ([CLS]) of sequence n

A program computes a tile of the pooler's outputs on tensor cores and reduces it to one number per sequence. The last
program of a row of tiles adds their numbers, always in the same order. Outputs are split over programs, too, so that
each reads only a part of W; with whole rows in one program, every program would read all of W.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from endcap_kernels.checks import FLOATS, check_offsets, check_tensor
from endcap_kernels.dispatch import custom_op, launch, runs_kernel
from endcap_kernels.functions import dot, tanh

MANY_ROWS = 4096
"""From this number of rows, programs take twice the rows: W is read half as often, and there are enough programs."""

_counters: dict[tuple[int, int], Tensor] = {}


def margin_scores(
    hidden: Tensor,
    offsets: Tensor,
    pooler_weight: Tensor,
    pooler_bias: Tensor,
    score_weight: Tensor,
    score_bias: Tensor,
) -> Tensor:
    """Score each sequence by its first token: BERT's pooler and a linear score.

    A sequence's score does not depend on the others. Accumulates in float32; float32 inputs use three TF32 products.

    Args:
        hidden: last hidden states of all tokens, float32, bfloat16 or float16 [tokens, H], H a multiple of 16.
        offsets: int32 or int64 [N + 1], first token of each sequence, and the number of tokens.
        pooler_weight: [H, H] (output, input), pooler_bias [H], score_weight [H], score_bias [1]: type of ``hidden``.
        pooler_bias: see there.
        score_weight: see there.
        score_bias: see there.

    Returns:
        float32 [N]; NaN for an empty sequence.

    Raises:
        ValueError: wrong shape, type or device.
    """
    check_tensor("hidden", hidden, ["tokens", "H"], FLOATS)
    size, dtype, device = hidden.shape[1], [hidden.dtype], hidden.device
    if not size or size % 16:
        raise ValueError(f"hidden: expected H to be a multiple of 16, got {size}")
    check_offsets(offsets, len(hidden), device)
    check_tensor("pooler_weight", pooler_weight, [size, size], dtype, device)
    check_tensor("pooler_bias", pooler_bias, [size], dtype, device)
    check_tensor("score_weight", score_weight, [size], dtype, device)
    check_tensor("score_bias", score_bias, [1], dtype, device)
    scores: Tensor = _margin_scores(hidden, offsets, pooler_weight, pooler_bias, score_weight, score_bias)
    return scores


def _empty_scores(
    hidden: Tensor,
    offsets: Tensor,
    pooler_weight: Tensor,
    pooler_bias: Tensor,
    score_weight: Tensor,
    score_bias: Tensor,
) -> Tensor:
    return hidden.new_empty(offsets.shape[0] - 1, dtype=torch.float32)


@custom_op("margin_scores", _empty_scores)
def _margin_scores(
    hidden: Tensor,
    offsets: Tensor,
    pooler_weight: Tensor,
    pooler_bias: Tensor,
    score_weight: Tensor,
    score_bias: Tensor,
) -> Tensor:
    if not runs_kernel(hidden):
        return _margin_scores_plain(hidden, offsets, pooler_weight, pooler_bias, score_weight, score_bias)
    scores = _empty_scores(hidden, offsets, pooler_weight, pooler_bias, score_weight, score_bias)
    rows, size = len(scores), hidden.shape[1]
    if hidden.stride(1) != 1:
        hidden = hidden.contiguous()
    options = configuration(rows, hidden.dtype)
    row_tiles, column_tiles = triton.cdiv(rows, options["BLOCK_M"]), triton.cdiv(size, options["BLOCK_N"])
    launch(
        _margin_scores_kernel,
        (row_tiles * column_tiles,),
        hidden.device,
        hidden,
        offsets.contiguous(),
        pooler_weight.contiguous(),
        pooler_bias.contiguous(),
        score_weight.contiguous(),
        score_bias,
        hidden.new_empty((column_tiles, rows), dtype=torch.float32),
        _zeroed_counters(row_tiles, hidden.device),
        scores,
        rows,
        hidden.stride(0),
        SIZE=size,
        **options,
    )
    return scores


def configuration(rows: int, dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes; BLOCK_N, BLOCK_K and rows of a warp do not depend on the number of rows, nor do a row's sums."""
    if dtype == torch.float32:
        return {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2}
    if rows < MANY_ROWS:
        return {"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 4, "num_stages": 4}
    return {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 8, "num_stages": 4}


def _zeroed_counters(count: int, device: torch.device) -> Tensor:
    """int32 [>= count] zeros. The kernel resets them to zero, because another launch would cost as much as the kernel.

    Streams must not share counters. A CUDA graph can be replayed on any stream, so it has its own, which are zeroed on
    each replay.
    """
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return torch.zeros(count, dtype=torch.int32, device=device)
    key = (device.index, torch.cuda.current_stream(device).cuda_stream)
    if key not in _counters or len(_counters[key]) < count:
        _counters[key] = torch.zeros(max(2 * count, 256), dtype=torch.int32, device=device)
    return _counters[key]


@triton.jit
def _margin_scores_kernel(
    hidden_ptr,  # [tokens, SIZE], rows stride_hidden apart
    offsets_ptr,  # int [rows + 1]
    pooler_weight_ptr,  # [SIZE, SIZE] (output, input)
    pooler_bias_ptr,  # [SIZE]
    score_weight_ptr,  # [SIZE]
    score_bias_ptr,  # [1]
    partial_ptr,  # float32 [column tiles, rows]
    counter_ptr,  # int32 [row tiles], zeros
    scores_ptr,  # float32 [rows]
    rows,
    stride_hidden,
    SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    COLUMN_TILES: tl.constexpr = (SIZE + BLOCK_N - 1) // BLOCK_N
    row_tile = tl.program_id(0) // COLUMN_TILES
    column_tile = tl.program_id(0) % COLUMN_TILES
    row = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    column = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.load(offsets_ptr + row, mask=row < rows, other=0).to(tl.int64)
    after = tl.load(offsets_ptr + row + 1, mask=row < rows, other=0).to(tl.int64)
    exists = first < after
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k in range(0, SIZE, BLOCK_K):
        depth = k + tl.arange(0, BLOCK_K)
        state = tl.load(
            hidden_ptr + first[:, None] * stride_hidden + depth[None, :],
            mask=exists[:, None] & (depth < SIZE)[None, :],
            other=0.0,
        )
        weight = tl.load(
            pooler_weight_ptr + column[None, :] * SIZE + depth[:, None],
            mask=(column < SIZE)[None, :] & (depth < SIZE)[:, None],
            other=0.0,
        )
        total = dot(state, weight, total)
    bias = tl.load(pooler_bias_ptr + column, mask=column < SIZE, other=0.0).to(tl.float32)
    score_weight = tl.load(score_weight_ptr + column, mask=column < SIZE, other=0.0).to(tl.float32)
    share = tl.sum(tanh(total + bias[None, :]) * score_weight[None, :], axis=1)
    tl.store(partial_ptr + column_tile * rows + row, share, mask=row < rows)
    # All shares are written before the counter is increased, and read without the L1 cache.
    tl.debug_barrier()
    arrived = tl.atomic_add(counter_ptr + row_tile, 1, sem="acq_rel")
    if arrived == COLUMN_TILES - 1:
        score = tl.zeros([BLOCK_M], tl.float32) + tl.load(score_bias_ptr).to(tl.float32)
        for tile in range(COLUMN_TILES):
            score += tl.load(partial_ptr + tile * rows + row, mask=row < rows, other=0.0, cache_modifier=".cg")
        tl.store(scores_ptr + row, tl.where(exists, score, float("nan")), mask=row < rows)
        tl.store(counter_ptr + row_tile, 0)


def _margin_scores_plain(
    hidden: Tensor,
    offsets: Tensor,
    pooler_weight: Tensor,
    pooler_bias: Tensor,
    score_weight: Tensor,
    score_bias: Tensor,
) -> Tensor:
    scores = hidden.new_full((len(offsets) - 1,), torch.nan, dtype=torch.float32)
    exists = offsets[1:] > offsets[:-1]
    states = hidden[offsets[:-1][exists]].float()
    pooled = torch.tanh(states @ pooler_weight.float().T + pooler_bias.float())
    scores[exists] = pooled @ score_weight.float() + score_bias.float()
    return scores
