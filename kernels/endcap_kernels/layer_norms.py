"""Common code of the two LayerNorm kernels: the tile of a program, and the normalisation of a tile."""

import triton
import triton.language as tl

from endcap_kernels.dispatch import power_of_two

TILE = 4096
"""Values of a program: 32 for each of 128 threads, enough concurrent loads to saturate the memory."""
WIDEST = 8192


def row_tiles(size: int) -> dict[str, int]:
    """Rows of a program and their padded width; independent of the number of rows, as is a row's result."""
    width = power_of_two(size, 16, WIDEST)
    return {"ROWS": max(TILE // width, 1), "WIDTH": width, "num_warps": 4 if width <= 2048 else 8}


@triton.jit
def normalised(values, exists, gamma, beta, eps, SIZE: tl.constexpr):
    """LayerNorm of the rows of ``values`` (float32 [ROWS, WIDTH]), with valid columns ``exists`` (bool [WIDTH])."""
    mean = tl.sum(tl.where(exists[None, :], values, 0.0), axis=1) / SIZE
    centred = tl.where(exists[None, :], values - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / SIZE
    scale = tl.rsqrt(variance + tl.full([], eps, tl.float32))
    return centred * scale[:, None] * gamma[None, :] + beta[None, :]
