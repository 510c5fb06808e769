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
def gelu(x, EXACT: tl.constexpr):
    """x * Phi(x), Phi the normal distribution.

    Without EXACT, Phi is computed by formula 7.1.26 of Abramowitz and Stegun (absolute error 7.5e-8), with half the
    instructions of erf, so that the kernel is limited by memory only.
    """
    if EXACT:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    z = tl.abs(x) * 0.7071067811865476
    t = 1.0 / (1.0 + 0.3275911 * z)
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = 0.5 * poly * tl.exp(-z * z)
    # Phi of a negative x is the tail, which avoids cancellation; infinity times a vanished tail would be NaN.
    phi = tl.where(x < 0, tail, 1.0 - tail)
    return tl.where(x == -float("inf"), 0.0 * tail, x * phi)
