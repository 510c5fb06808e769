"""RMSNorm(x + residual) of Llama-class models, in one pass over memory (arXiv 1910.07467)."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from endcap_kernels.checks import FLOATS, check_positive, check_tensor
from endcap_kernels.dispatch import custom_op, launch, runs_kernel
from endcap_kernels.layer_norms import WIDEST, inverse_deviation, load_vector, row_sums, row_tiles


class Added(NamedTuple):
    """Result of `add_rms_norm`."""

    total: Tensor
    """x + residual, which the next layer's sum needs; ``x`` itself without a residual."""
    normed: Tensor


def add_rms_norm(x: Tensor, gamma: Tensor, residual: Tensor | None = None, eps: float = 1e-6) -> Added:
    """Return z = x + residual, and z / sqrt(mean(z^2) + eps) * gamma, computed in float32.

    Args:
        x: float32, bfloat16 or float16 [tokens, H], H at most 8192.
        gamma: scale, type of ``x`` [H].
        residual: type and shape of ``x``; none if not given.
        eps: added to the mean square; above 0.

    Returns:
        Both of the type and shape of ``x``.

    Raises:
        ValueError: wrong shape, type, device or eps.
    """
    check_tensor("x", x, ["tokens", "H"], FLOATS)
    size = x.shape[1]
    if not 0 < size <= WIDEST:
        raise ValueError(f"x: expected H in 1..{WIDEST}, got {size}")
    check_tensor("gamma", gamma, [size], [x.dtype], x.device)
    if residual is not None:
        check_tensor("residual", residual, list(x.shape), [x.dtype], x.device)
    total, normed = _add_rms_norm(x, gamma, residual, check_positive("eps", eps))
    return Added(x if residual is None else total, normed)


def _empty_results(x: Tensor, gamma: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if residual is not None else (0, x.shape[1])), x.new_empty(x.shape)


@custom_op("add_rms_norm", _empty_results)
def _add_rms_norm(x: Tensor, gamma: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    if not runs_kernel(x):
        wide = x.float() if residual is None else x.float() + residual.float()
        normed = torch.nn.functional.rms_norm(wide, x.shape[1:], gamma.float(), eps).to(x.dtype)
        return (wide[:0] if residual is None else wide).to(x.dtype, copy=True), normed
    x = x if x.stride(1) == 1 else x.contiguous()
    added = x if residual is None else residual if residual.stride(1) == 1 else residual.contiguous()
    total, normed = _empty_results(x, gamma, residual, eps)
    options = row_tiles(x.shape[1])
    launch(
        _add_rms_norm_kernel,
        (triton.cdiv(len(x), options["ROWS"]),),
        x.device,
        x,
        added,
        gamma.contiguous(),
        total,
        normed,
        len(x),
        x.stride(0),
        added.stride(0),
        eps,
        HAS_RESIDUAL=residual is not None,
        SIZE=x.shape[1],
        **options,
    )
    return total, normed


@triton.jit
def _added(
    x_ptr,
    residual_ptr,
    total_ptr,
    row,
    rows,
    column,
    stride_x,
    stride_residual,
    HAS_RESIDUAL: tl.constexpr,
    SIZE: tl.constexpr,
):
    """A chunk of x + residual, float32 [ROWS, WIDTH], 0 where padded; it is written to the total."""
    exists = (row < rows)[:, None] & (column < SIZE)[None, :]
    values = tl.load(x_ptr + row[:, None] * stride_x + column[None, :], mask=exists, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        residual = residual_ptr + row[:, None] * stride_residual + column[None, :]
        values += tl.load(residual, mask=exists, other=0.0).to(tl.float32)
        place = total_ptr + row[:, None] * SIZE + column[None, :]
        tl.store(place, values.to(total_ptr.dtype.element_ty), mask=exists)
    return values


@triton.jit
def _store_scaled(values, scale, gamma_ptr, normed_ptr, row, rows, column, SIZE: tl.constexpr):
    result = values * scale[:, None] * load_vector(gamma_ptr, column, SIZE)[None, :]
    place = normed_ptr + row[:, None] * SIZE + column[None, :]
    exists = (row < rows)[:, None] & (column < SIZE)[None, :]
    tl.store(place, result.to(normed_ptr.dtype.element_ty), mask=exists)


@triton.jit
def _add_rms_norm_kernel(
    x_ptr,  # [rows, SIZE], rows stride_x apart
    residual_ptr,  # [rows, SIZE], rows stride_residual apart
    gamma_ptr,  # [SIZE]
    total_ptr,  # [rows, SIZE]
    normed_ptr,  # [rows, SIZE]
    rows,
    stride_x,
    stride_residual,
    eps,
    HAS_RESIDUAL: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, WIDTH)
    first = _added(
        x_ptr, residual_ptr, total_ptr, row, rows, column, stride_x, stride_residual, HAS_RESIDUAL, SIZE
    )  # fmt: skip
    second = first
    third = first
    if CHUNKS == 3:
        second = _added(
            x_ptr, residual_ptr, total_ptr, row, rows, WIDTH + column, stride_x, stride_residual, HAS_RESIDUAL, SIZE
        )  # fmt: skip
        third = _added(
            x_ptr, residual_ptr, total_ptr, row, rows, 2 * WIDTH + column, stride_x, stride_residual, HAS_RESIDUAL, SIZE
        )  # fmt: skip
    scale = inverse_deviation(row_sums(first * first, second * second, third * third, CHUNKS), eps, SIZE)
    _store_scaled(first, scale, gamma_ptr, normed_ptr, row, rows, column, SIZE)
    if CHUNKS == 3:
        _store_scaled(second, scale, gamma_ptr, normed_ptr, row, rows, WIDTH + column, SIZE)
        _store_scaled(third, scale, gamma_ptr, normed_ptr, row, rows, 2 * WIDTH + column, SIZE)
