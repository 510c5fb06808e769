"""Vectors of packed sequences: the mean of a sequence's states, or its first, normalised to unit length."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from endcap_kernels.checks import FLOATS, check_offsets, check_tensor
from endcap_kernels.dispatch import custom_op, launch, runs_kernel
from endcap_kernels.layer_norms import WIDEST, row_sums, row_tiles

LEAST = 1e-12
"""Least length by which a vector is divided, as in PyTorch's ``normalize``."""


def pool_normalise(hidden: Tensor, offsets: Tensor, mean: bool = True) -> Tensor:
    """Return v / max(|v|, 1e-12) of each sequence, v the mean of its states or the first of them.

    Args:
        hidden: float32, bfloat16 or float16 [tokens, H], H at most 8192.
        offsets: first token of each sequence, and the end of the last: int32 or int64 [N + 1].
        mean: whether v is the mean; else the first state ([CLS]).

    Returns:
        float32 [N, H], computed in float32; NaN for an empty sequence.

    Raises:
        ValueError: wrong shape, type or device.
    """
    check_tensor("hidden", hidden, ["tokens", "H"], FLOATS)
    if not 0 < hidden.shape[1] <= WIDEST:
        raise ValueError(f"hidden: expected H in 1..{WIDEST}, got {hidden.shape[1]}")
    check_offsets(offsets, len(hidden), hidden.device, to_the_end=False)
    result: Tensor = _pool_normalise(hidden, offsets, mean)
    return result


def _empty_result(hidden: Tensor, offsets: Tensor, mean: bool) -> Tensor:
    return hidden.new_empty((offsets.shape[0] - 1, hidden.shape[1]), dtype=torch.float32)


@custom_op("pool_normalise", _empty_result)
def _pool_normalise(hidden: Tensor, offsets: Tensor, mean: bool) -> Tensor:
    if not runs_kernel(hidden):
        result = torch.full_like(_empty_result(hidden, offsets, mean), torch.nan)
        for place, (start, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
            if start < end:
                states = hidden[start:end].float()
                pooled = states.mean(0) if mean else states[0]
                result[place] = pooled / pooled.norm().clamp_min(LEAST)
        return result
    hidden = hidden if hidden.stride(1) == 1 else hidden.contiguous()
    result, size = _empty_result(hidden, offsets, mean), hidden.shape[1]
    launch(
        _pool_normalise_kernel,
        (len(result),),
        hidden.device,
        hidden,
        offsets.contiguous(),
        result,
        hidden.stride(0),
        MEAN=mean,
        SIZE=size,
        LEAST=LEAST,
        **row_tiles(size),
    )
    return result


@triton.jit
def _pooled(
    hidden_ptr,
    start,
    length,
    column,
    stride,
    MEAN: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """A chunk of the mean or of the first state of a sequence, float32 [1, WIDTH]; 0 where padded."""
    total = tl.zeros([1, WIDTH], tl.float32)
    used = length
    if not MEAN:
        used = tl.minimum(length, 1)
    for first in range(0, used, ROWS):
        row = first + tl.arange(0, ROWS)
        place = hidden_ptr + (start + row)[:, None] * stride + column[None, :]
        states = tl.load(place, mask=(row < used)[:, None] & (column < SIZE)[None, :], other=0.0)
        total += tl.sum(states.to(tl.float32), axis=0)[None, :]
    return total / used.to(tl.float32)


@triton.jit
def _pool_normalise_kernel(
    hidden_ptr,  # [tokens, SIZE], rows stride apart
    offsets_ptr,  # int [N + 1]
    result_ptr,  # float32 [N, SIZE]
    stride,
    MEAN: tl.constexpr,
    SIZE: tl.constexpr,
    LEAST: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    sequence = tl.program_id(0).to(tl.int64)
    start = tl.load(offsets_ptr + sequence).to(tl.int64)
    length = (tl.load(offsets_ptr + sequence + 1).to(tl.int64) - start).to(tl.int32)
    column = tl.arange(0, WIDTH)
    first = _pooled(hidden_ptr, start, length, column, stride, MEAN, SIZE, ROWS, WIDTH)
    second = first
    third = first
    if CHUNKS == 3:
        second = _pooled(hidden_ptr, start, length, WIDTH + column, stride, MEAN, SIZE, ROWS, WIDTH)
        third = _pooled(hidden_ptr, start, length, 2 * WIDTH + column, stride, MEAN, SIZE, ROWS, WIDTH)
    # An empty sequence has 0 / 0, which a maximum would hide.
    size = tl.sqrt(row_sums(first * first, second * second, third * third, CHUNKS))
    scale = tl.where(size < LEAST, 1.0 / LEAST, 1.0 / size)
    place = result_ptr + sequence * SIZE + column[None, :]
    tl.store(place, first * scale[:, None], mask=(column < SIZE)[None, :])
    if CHUNKS == 3:
        tl.store(place + WIDTH, second * scale[:, None])
        tl.store(place + 2 * WIDTH, third * scale[:, None])
