"""Rotary position embeddings of queries and keys, in place, before `causal_attention` (arXiv 2104.09864)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from endcap_kernels.checks import FLOATS, INTEGERS, check_tensor
from endcap_kernels.dispatch import custom_op, launch, runs_kernel

TILE = 2048


def rotate(qkv: Tensor, heads: int, positions: Tensor, table: Tensor) -> None:
    """Rotate the first ``heads`` of each token by its position, in place, computed in float32.

    The halves (a, b) of a head become (a cos - b sin, b cos + a sin).

    Args:
        qkv: float32, bfloat16 or float16 [tokens, lanes, D], contiguous; queries and keys are its first lanes.
        heads: lanes to rotate.
        positions: position of each token in its sequence, int32 or int64 [tokens]; those outside the table are
            undefined behaviour on a GPU.
        table: `rotary_table`, float32 [longest, D].

    Raises:
        ValueError: wrong shape, type, device or number of heads.
    """
    check_tensor("qkv", qkv, ["tokens", "lanes", "D"], FLOATS)
    tokens, lanes, size = qkv.shape
    if size % 2 or not qkv.is_contiguous():
        raise ValueError(f"qkv: expected an even D and contiguous rows, got D {size}, strides {qkv.stride()}")
    if not 0 <= heads <= lanes:
        raise ValueError(f"heads: expected 0..{lanes}, got {heads}")
    check_tensor("positions", positions, [tokens], INTEGERS, qkv.device)
    check_tensor("table", table, ["longest", size], [torch.float32], qkv.device)
    _rotate(qkv, heads, positions, table)


def rotary_table(config: Mapping[str, Any], size: int, device: torch.device) -> Tensor:
    """Cosines and sines of a checkpoint's rotary embeddings, float32 [longest, D]: a half of each.

    Args:
        config: ``config.json``, of transformers 4 (``rope_theta``, ``rope_scaling``) or 5 (``rope_parameters``).
        size: D, of a head.
        device: of the result.

    Raises:
        ValueError: a kind of rotary embedding other than ``default``, ``linear`` or ``llama3``.
    """
    scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    base = float(scaling.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    frequency = base ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    if kind == "linear":
        frequency = frequency / float(scaling["factor"])
    elif kind == "llama3":
        frequency = _llama3(frequency, scaling)
    elif kind != "default":
        raise ValueError(f"config.json, rope_type: expected default, linear or llama3, got {kind!r}")
    # As Hugging Face does: angles in float32.
    angle = torch.arange(int(config["max_position_embeddings"])).float()[:, None] * frequency.float()[None, :]
    return torch.cat([angle.cos(), angle.sin()], 1).to(device)


def _llama3(frequency: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Long wavelengths are stretched, short ones kept, and those between are interpolated."""
    factor, low, high = (float(scaling[name]) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = float(scaling["original_max_position_embeddings"]) * frequency / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequency * (kept + (1 - kept) / factor)


def _nothing(qkv: Tensor, heads: int, positions: Tensor, table: Tensor) -> None:
    return None


@custom_op("rotate", _nothing, mutates=("qkv",))
def _rotate(qkv: Tensor, heads: int, positions: Tensor, table: Tensor) -> None:
    tokens, lanes, size = qkv.shape
    if not runs_kernel(qkv):
        cos, sin = table[positions.long()][:, None, :].chunk(2, dim=2)
        left, right = qkv[:, :heads].float().chunk(2, dim=2)
        qkv[:, :heads] = torch.cat([left * cos - right * sin, right * cos + left * sin], 2).to(qkv.dtype)
        return
    half = triton.next_power_of_2(size // 2)
    rows = max(TILE // half, 1)
    launch(
        _rotate_kernel,
        (triton.cdiv(tokens, rows), heads),
        qkv.device,
        qkv,
        positions.contiguous(),
        table.contiguous(),
        tokens,
        lanes * size,
        SIZE=size,
        ROWS=rows,
        HALF=half,
        num_warps=4,
    )


@triton.jit
def _rotate_kernel(
    qkv_ptr,  # [tokens, lanes, SIZE], tokens stride_token apart
    positions_ptr,  # int [tokens]
    table_ptr,  # float32 [longest, SIZE]: cosines, sines
    tokens,
    stride_token,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    HALF: tl.constexpr,
):
    token = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, HALF)
    exists = (token < tokens)[:, None] & (column < SIZE // 2)[None, :]
    position = tl.load(positions_ptr + token, mask=token < tokens, other=0).to(tl.int64)
    angle = table_ptr + position[:, None] * SIZE + column[None, :]
    cos = tl.load(angle, mask=exists, other=0.0)
    sin = tl.load(angle + SIZE // 2, mask=exists, other=0.0)
    place = qkv_ptr + token[:, None] * stride_token + tl.program_id(1) * SIZE + column[None, :]
    left = tl.load(place, mask=exists, other=0.0).to(tl.float32)
    right = tl.load(place + SIZE // 2, mask=exists, other=0.0).to(tl.float32)
    tl.store(place, (left * cos - right * sin).to(qkv_ptr.dtype.element_ty), mask=exists)
    tl.store(place + SIZE // 2, (right * cos + left * sin).to(qkv_ptr.dtype.element_ty), mask=exists)
