"""gelu(x + bias) between the two matrix products of a BERT layer's feed-forward part, in one pass over memory."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from endcap_kernels.checks import FLOATS, check_tensor
from endcap_kernels.dispatch import custom_op, launch, power_of_two, runs_kernel
from endcap_kernels.functions import gelu

TILE = 4096


def gelu_bias(x: Tensor, bias: Tensor) -> Tensor:
    """Return z * Phi(z) of z = x + bias, Phi the normal distribution (BERT's "gelu", not its tanh approximation).

    Args:
        x: float32, bfloat16 or float16 [tokens, I].
        bias: type of ``x`` [I].

    Returns:
        Type and shape of ``x``; computed in float32, for bfloat16 and float16 by a formula with an error below 1e-7.

    Raises:
        ValueError: wrong shape, type or device.
    """
    check_tensor("x", x, ["tokens", "I"], FLOATS)
    check_tensor("bias", bias, [x.shape[1]], [x.dtype], x.device)
    result: Tensor = _gelu_bias(x, bias)
    return result


def value_tiles(size: int) -> dict[str, int]:
    """Rows and columns of a program that computes each value by itself, in rows of ``size``."""
    # With the largest power of two that divides the size, no lane is idle; 64 half floats are one line of the cache.
    width = power_of_two(min(size & -size, 1024) if size % 64 == 0 else size, 16, 1024)
    return {"ROWS": TILE // width, "WIDTH": width}


def _empty_result(x: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@custom_op("gelu_bias", _empty_result)
def _gelu_bias(x: Tensor, bias: Tensor) -> Tensor:
    if not runs_kernel(x):
        return torch.nn.functional.gelu(x.float() + bias.float()).to(x.dtype)
    x = x if x.stride(1) == 1 else x.contiguous()
    result, (rows, size) = _empty_result(x, bias), x.shape
    if not rows or not size:
        return result
    options = value_tiles(size)
    launch(
        _gelu_bias_kernel,
        (triton.cdiv(rows, options["ROWS"]), triton.cdiv(size, options["WIDTH"])),
        x.device,
        x,
        bias.contiguous(),
        result,
        rows,
        size,
        x.stride(0),
        EXACT=x.dtype == torch.float32,
        num_warps=4,
        **options,
    )
    return result


@triton.jit
def _gelu_bias_kernel(
    x_ptr,  # [rows, size], rows stride_x apart
    bias_ptr,  # [size]
    result_ptr,  # [rows, size]
    rows,
    size,
    stride_x,
    EXACT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    exists = (row < rows)[:, None] & (column < size)[None, :]
    values = tl.load(x_ptr + row[:, None] * stride_x + column[None, :], mask=exists, other=0.0).to(tl.float32)
    values += tl.load(bias_ptr + column, mask=column < size, other=0.0).to(tl.float32)[None, :]
    place = result_ptr + row[:, None] * size + column[None, :]
    tl.store(place, gelu(values, EXACT).to(result_ptr.dtype.element_ty), mask=exists)
