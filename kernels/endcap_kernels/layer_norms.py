"""Common code of the normalising kernels: the tile of a program, and the normalisation of its rows.

Triton's tiles have powers of two. A row of 768 (or 384, 1536, 3072) is therefore three chunks of 256, not 1 024 values
of which a quarter is padding; other rows are one padded chunk. Kernels name the chunks, because they stay in registers.
"""

import triton
import triton.language as tl

from endcap_kernels.dispatch import power_of_two

TILE = 4096
"""Values of a program: 32 for each of 128 threads, enough concurrent loads to saturate the memory."""
WIDEST = 8192


def row_tiles(size: int) -> dict[str, int]:
    """Rows of a program, chunks of a row and their padded width; independent of the number of rows."""
    chunk, rest = divmod(size, 3)
    if not rest and chunk >= 16 and chunk == power_of_two(chunk, 16, WIDEST):
        chunks, width = 3, chunk
    else:
        chunks, width = 1, power_of_two(size, 16, WIDEST)
    rows = 1 << max(TILE // (chunks * width), 1).bit_length() - 1
    return {"ROWS": rows, "CHUNKS": chunks, "WIDTH": width, "num_warps": 4 if chunks * width <= 3072 else 8}


@triton.jit
def load_vector(vector_ptr, column, SIZE: tl.constexpr):
    """Part of a vector, float32 [WIDTH]; 0 behind its end."""
    return tl.load(vector_ptr + column, mask=column < SIZE, other=0.0).to(tl.float32)


@triton.jit
def row_sums(first, second, third, CHUNKS: tl.constexpr):
    """Sums of rows that are CHUNKS chunks (float32 [ROWS, WIDTH], 0 where padded): float32 [ROWS]."""
    total = first
    if CHUNKS == 3:
        total = first + second + third
    return tl.sum(total, axis=1)


@triton.jit
def centred(values, mean, column, SIZE: tl.constexpr):
    """A chunk minus the mean of its row; 0 where padded."""
    return tl.where((column < SIZE)[None, :], values - mean[:, None], 0.0)


@triton.jit
def inverse_deviation(squares, eps, SIZE: tl.constexpr):
    """1 / sqrt(mean square + eps) of each row from its sum of squares, float32 [ROWS]."""
    return tl.rsqrt(squares / SIZE + tl.full([], eps, tl.float32))


@triton.jit
def store_normalised(
    first,
    second,
    third,
    result_ptr,
    gamma_ptr,
    beta_ptr,
    row,
    rows,
    eps,
    SIZE: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write LayerNorm of the rows ``row`` (int64 [ROWS]), of which chunks are float32 [ROWS, WIDTH], 0 where padded."""
    column = tl.arange(0, WIDTH)
    mean = row_sums(first, second, third, CHUNKS) / SIZE
    first = centred(first, mean, column, SIZE)
    if CHUNKS == 3:
        second = centred(second, mean, column, SIZE)
        third = centred(third, mean, column, SIZE)
    squares = first * first
    if CHUNKS == 3:
        squares += second * second + third * third
    scale = inverse_deviation(tl.sum(squares, axis=1), eps, SIZE)
    _store_chunk(first, scale, result_ptr, gamma_ptr, beta_ptr, row, rows, column, SIZE)
    if CHUNKS == 3:
        _store_chunk(second, scale, result_ptr, gamma_ptr, beta_ptr, row, rows, WIDTH + column, SIZE)
        _store_chunk(third, scale, result_ptr, gamma_ptr, beta_ptr, row, rows, 2 * WIDTH + column, SIZE)


@triton.jit
def _store_chunk(values, scale, result_ptr, gamma_ptr, beta_ptr, row, rows, column, SIZE: tl.constexpr):
    gamma, beta = load_vector(gamma_ptr, column, SIZE), load_vector(beta_ptr, column, SIZE)
    result = values * scale[:, None] * gamma[None, :] + beta[None, :]
    place = result_ptr + row[:, None] * SIZE + column[None, :]
    exists = (row < rows)[:, None] & (column < SIZE)[None, :]
    tl.store(place, result.to(result_ptr.dtype.element_ty), mask=exists)
