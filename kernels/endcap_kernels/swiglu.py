"""silu(gate) * up between the matrix products of a Llama layer's feed-forward part (arXiv 2002.05202)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from endcap_kernels.checks import FLOATS, check_tensor
from endcap_kernels.dispatch import custom_op, launch, runs_kernel
from endcap_kernels.functions import silu
from endcap_kernels.gelu_bias import value_tiles


def swiglu(x: Tensor) -> Tensor:
    """Return silu(x[:, :I]) * x[:, I:], silu(g) = g / (1 + exp(-g)), computed in float32.

    Args:
        x: gates and values side by side, float32, bfloat16 or float16 [tokens, 2 I].

    Returns:
        Type of ``x`` [tokens, I].

    Raises:
        ValueError: wrong shape, type or device.
    """
    check_tensor("x", x, ["tokens", "2 I"], FLOATS)
    if x.shape[1] % 2:
        raise ValueError(f"x: expected gates and values side by side, got {x.shape[1]} columns")
    result: Tensor = _swiglu(x)
    return result


def _empty_result(x: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1] // 2))


@custom_op("swiglu", _empty_result)
def _swiglu(x: Tensor) -> Tensor:
    if not runs_kernel(x):
        gate, up = x.float().chunk(2, dim=1)
        return (torch.nn.functional.silu(gate) * up).to(x.dtype)
    x = x if x.stride(1) == 1 else x.contiguous()
    result = _empty_result(x)
    rows, size = result.shape
    if not rows or not size:
        return result
    options = value_tiles(size)
    launch(
        _swiglu_kernel,
        (triton.cdiv(rows, options["ROWS"]), triton.cdiv(size, options["WIDTH"])),
        x.device,
        x,
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
def _swiglu_kernel(
    x_ptr,  # [rows, 2 * size], rows stride_x apart
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
    place = x_ptr + row[:, None] * stride_x + column[None, :]
    gate = tl.load(place, mask=exists, other=0.0).to(tl.float32)
    up = tl.load(place + size, mask=exists, other=0.0).to(tl.float32)
    result = silu(gate, EXACT) * up
    tl.store(result_ptr + row[:, None] * size + column[None, :], result.to(result_ptr.dtype.element_ty), mask=exists)
