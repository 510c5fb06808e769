"""Functions for kernels that Triton does not have, or only slower ones; mostly float32."""

import triton
import triton.language as tl

from endcap_kernels.dispatch import INTERPRETED

WIDEN_PRODUCTS = tl.constexpr(INTERPRETED)


@triton.jit
def dot(left, right, total):
    """Matrix product added to ``total`` (float32); float32 operands as three TF32 products, nearly exact."""
    if WIDEN_PRODUCTS:
        # The interpreter reads the bits of bfloat16 as integers. Products of half floats are exact in float32.
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="tf32x3")


@triton.jit
def sorted_rows(keys, DESCENDING: tl.constexpr):
    """Each row of int64 [rows, width] in order; equal keys are one key."""
    if WIDEN_PRODUCTS:
        # Triton's own sort takes seconds in the interpreter. The place of a key is the number of keys before it.
        lane = tl.arange(0, keys.shape[1])
        one, other = keys[:, :, None], keys[:, None, :]
        earlier = (one == other) & (lane[None, None, :] < lane[None, :, None])
        before = ((other > one) if DESCENDING else (other < one)) | earlier
        place = tl.sum(before.to(tl.int32), axis=2)
        return tl.sum(tl.where(place[:, :, None] == lane[None, None, :], one, 0), axis=1)
    return tl.sort(keys, dim=1, descending=DESCENDING)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)); 0 or 1 if exp overflows or vanishes."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """sinh(x) / cosh(x), absolute error below 3e-7."""
    # exp(-2|x|) is at most 1: nothing overflows, and large |x| give exactly 1.
    decay = tl.exp(-2.0 * tl.abs(x))
    magnitude = (1.0 - decay) / (1.0 + decay)
    return tl.where(x < 0, -magnitude, magnitude)


@triton.jit
def reciprocal(x):
    """1 / x of a normal float32, relative error below 2e-7: one instruction, which an exact division is not."""
    if WIDEN_PRODUCTS:
        return 1.0 / x
    return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def power_of_two(x):
    """2 ** x of float32, relative error below 2e-7; 0 where the result is subnormal, so it needs one instruction."""
    if WIDEN_PRODUCTS:
        return tl.exp2(x)
    return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def gelu(x, EXACT: tl.constexpr):
    """x * Phi(x), Phi the normal distribution.

    Without EXACT, Phi is computed by formula 7.1.26 of Abramowitz and Stegun (absolute error 7.5e-8) with approximate
    instructions: the result's absolute error is below 1e-6. With the tail Phi(-|x|), x * Phi(x) is
    max(x, 0) - |x| * tail for both signs, without cancellation for negative x.
    """
    if EXACT:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    # The tail of 16 is 0 in float32; without the bound, infinity times 0 would be NaN.
    size = tl.minimum(tl.abs(x), 16.0)
    t = reciprocal(1.0 + 0.2316418882 * size)  # 0.3275911 / sqrt(2)
    # Coefficients of the formula, halved.
    poly = t * (0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (-0.7265760135 + t * 0.5307027145))))
    root = 0.8493218003 * size  # its square is size^2 / 2 * log2(e)
    tail = poly * power_of_two(-root * root)
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) - size * tail


@triton.jit
def silu(x, EXACT: tl.constexpr):
    """x / (1 + exp(-x)); without EXACT, by approximate instructions with a relative error below 1e-6."""
    if EXACT:
        return x * sigmoid(x)
    return x * reciprocal(1.0 + power_of_two(-1.4426950409 * x))
