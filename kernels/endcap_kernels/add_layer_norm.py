"""LayerNorm(x + bias + residual), which follows most matrix products of a BERT layer, in one pass over memory."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from endcap_kernels.checks import FLOATS, check_positive, check_tensor
from endcap_kernels.dispatch import custom_op, launch, runs_kernel
from endcap_kernels.layer_norms import WIDEST, load_vector, row_tiles, store_normalised


def add_layer_norm(
    x: Tensor, residual: Tensor, gamma: Tensor, beta: Tensor, bias: Tensor | None = None, eps: float = 1e-12
) -> Tensor:
    """Return LayerNorm(x + bias + residual), computed in float32.

    Args:
        x: float32, bfloat16 or float16 [tokens, H], H at most 8192.
        residual: type and shape of ``x``.
        gamma: scale, type of ``x`` [H]; beta: shift, likewise; bias: added to each row, likewise, none if not given.
        beta: see there.
        bias: see there.
        eps: added to the variance; above 0.

    Returns:
        Type and shape of ``x``.

    Raises:
        ValueError: wrong shape, type, device or eps.
    """
    check_tensor("x", x, ["tokens", "H"], FLOATS)
    size, dtype = x.shape[1], [x.dtype]
    if not 0 < size <= WIDEST:
        raise ValueError(f"x: expected H in 1..{WIDEST}, got {size}")
    check_tensor("residual", residual, list(x.shape), dtype, x.device)
    check_tensor("gamma", gamma, [size], dtype, x.device)
    check_tensor("beta", beta, [size], dtype, x.device)
    if bias is not None:
        check_tensor("bias", bias, [size], dtype, x.device)
    result: Tensor = _add_layer_norm(x, residual, gamma, beta, bias, check_positive("eps", eps))
    return result


def _empty_result(x: Tensor, residual: Tensor, gamma: Tensor, beta: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    return x.new_empty(x.shape)


@custom_op("add_layer_norm", _empty_result)
def _add_layer_norm(
    x: Tensor, residual: Tensor, gamma: Tensor, beta: Tensor, bias: Tensor | None, eps: float
) -> Tensor:
    if not runs_kernel(x):
        total = x.float() + residual.float() + (0 if bias is None else bias.float())
        return torch.nn.functional.layer_norm(total, x.shape[1:], gamma.float(), beta.float(), eps).to(x.dtype)
    x, residual = (tensor if tensor.stride(1) == 1 else tensor.contiguous() for tensor in (x, residual))
    result, (rows, size) = _empty_result(x, residual, gamma, beta, bias, eps), x.shape
    options = row_tiles(size)
    launch(
        _add_layer_norm_kernel,
        (triton.cdiv(rows, options["ROWS"]),),
        x.device,
        x,
        residual,
        gamma.contiguous(),
        beta.contiguous(),
        gamma if bias is None else bias.contiguous(),
        result,
        rows,
        x.stride(0),
        residual.stride(0),
        eps,
        HAS_BIAS=bias is not None,
        SIZE=size,
        **options,
    )
    return result


@triton.jit
def _added(
    x_ptr,
    residual_ptr,
    bias_ptr,
    row,
    rows,
    column,
    stride_x,
    stride_residual,
    HAS_BIAS: tl.constexpr,
    SIZE: tl.constexpr,
):
    """A chunk of x + residual + bias, float32 [ROWS, WIDTH]; 0 where padded."""
    both = (row < rows)[:, None] & (column < SIZE)[None, :]
    values = tl.load(x_ptr + row[:, None] * stride_x + column[None, :], mask=both, other=0.0).to(tl.float32)
    residual = residual_ptr + row[:, None] * stride_residual + column[None, :]
    values += tl.load(residual, mask=both, other=0.0).to(tl.float32)
    if HAS_BIAS:
        values += load_vector(bias_ptr, column, SIZE)[None, :]
    return values


@triton.jit
def _add_layer_norm_kernel(
    x_ptr,  # [rows, SIZE], rows stride_x apart
    residual_ptr,  # [rows, SIZE], rows stride_residual apart
    gamma_ptr,  # [SIZE]
    beta_ptr,  # [SIZE]
    bias_ptr,  # [SIZE]
    result_ptr,  # [rows, SIZE]
    rows,
    stride_x,
    stride_residual,
    eps,
    HAS_BIAS: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, WIDTH)
    first = _added(x_ptr, residual_ptr, bias_ptr, row, rows, column, stride_x, stride_residual, HAS_BIAS, SIZE)
    second = first
    third = first
    if CHUNKS == 3:
        column += WIDTH
        second = _added(x_ptr, residual_ptr, bias_ptr, row, rows, column, stride_x, stride_residual, HAS_BIAS, SIZE)
        column += WIDTH
        third = _added(x_ptr, residual_ptr, bias_ptr, row, rows, column, stride_x, stride_residual, HAS_BIAS, SIZE)
    store_normalised(first, second, third, result_ptr, gamma_ptr, beta_ptr, row, rows, eps, SIZE, CHUNKS, WIDTH)
