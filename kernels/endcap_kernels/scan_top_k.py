"""Exact nearest rows of a large matrix, for a batch of queries, in one pass over the matrix and one merging launch.

A program compares 16 queries with a strip of rows on tensor cores and keeps their best rows on the chip; a second
launch merges the strips. A row and its score are one 64-bit key, so that one sort orders by score, then by row:

    key = ordered bits of the score << 32 | 2^31 - 1 - row
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from endcap_kernels.checks import check_tensor
from endcap_kernels.dispatch import custom_op, launch, power_of_two, runs_kernel
from endcap_kernels.functions import dot, sorted_rows

WIDEST = 256
"""Most rows that a program keeps for each query; for more, PyTorch multiplies and selects."""
_QUERIES, _DEPTH = 16, 64
_STRIPS = 264
"""Strips of a large matrix: two for each multiprocessor of an H100 or H200."""
_LEAST_TILES = 8
"""Tiles of a strip, at least."""
_EXTRA = 16
"""More rows than asked for are rescored, because float16 can swap neighbours."""


class Nearest(NamedTuple):
    """Result of a search."""

    row: Tensor
    """int64 [Q, k]: nearest first, of equal ones the earlier; -1 padded."""
    score: Tensor
    """float32 [Q, k]; NaN padded."""


class ItemMatrix:
    """Rows to be searched by inner product, on one device, in float16; with ``quantised`` a copy in int8 is scanned."""

    def __init__(self, vectors: Tensor, quantised: bool = False) -> None:
        """Use ``vectors``, float16 or float32 [n, D], where they are.

        Args:
            vectors: see above.
            quantised: scan an int8 copy with a scale for each row, which halves the bytes that are read, and rescore
                four times the rows in float16. A row that int8 hides from these is missed.
        """
        check_tensor("vectors", vectors, ["n", "D"], (torch.float16, torch.float32))
        self.items = vectors.half().contiguous()
        self._scanned, self._scales = self.items, None
        if quantised:
            self._scales = vectors.float().abs().amax(1).clamp_min(1e-12) / 127
            self._scanned = (vectors.float() / self._scales[:, None]).round().to(torch.int8)

    def __len__(self) -> int:
        return len(self.items)

    def search(self, queries: Tensor, k: int, allowed: Tensor | None = None) -> Nearest:
        """The ``k`` allowed rows with the largest inner products, by float32 sums over the float16 rows.

        Args:
            queries: float32 [Q, D], on the device of the matrix.
            k: rows to find.
            allowed: uint8 [ceil(n / 8)], a bit for each row, the lowest first; all rows if not given.

        Raises:
            ValueError: wrong shape, type, device or k.
        """
        check_tensor("queries", queries, ["Q", self.items.shape[1]], [torch.float32], self.items.device)
        depth = k * (4 if self._scales is not None else 1) + _EXTRA
        found = scan_top_k(queries.half(), self._scanned, min(depth, max(len(self), 1)), allowed, self._scales)
        rows = found.row.sort(dim=1).values  # the second sort is stable, so of equal ones the earlier row is first
        known = rows >= 0
        chosen = self.items.new_zeros(1) if not len(self) else self.items[rows.clamp_min(0)].float()
        exact = torch.where(known, (chosen * queries[:, None, :]).sum(2), torch.nan)
        order = torch.where(known, exact, -torch.inf).argsort(dim=1, descending=True, stable=True)
        # What is padded goes behind a score of -infinity, too.
        order = order.gather(1, (~known).gather(1, order).to(torch.uint8).argsort(dim=1, stable=True))[:, :k]
        missing = max(k - order.shape[1], 0)
        pad = torch.nn.functional.pad
        return Nearest(
            pad(rows.gather(1, order), (0, missing), value=-1),
            pad(exact.gather(1, order), (0, missing), value=torch.nan),
        )


def scan_top_k(
    queries: Tensor, items: Tensor, k: int, allowed: Tensor | None = None, scales: Tensor | None = None
) -> Nearest:
    """The rows of ``items`` with the largest inner products with each query; products in float16, sums in float32.

    Args:
        queries: float16 [Q, D], D a multiple of 16.
        items: float16 or int8 [n, D], n below 2^31.
        k: rows to find, at least 1.
        allowed: uint8 [ceil(n / 8)], a bit for each row, the lowest first; all rows if not given.
        scales: float32 [n], factors of int8 rows; required for them.

    Raises:
        ValueError: wrong shape, type, device or k.
    """
    check_tensor("queries", queries, ["Q", "D"], [torch.float16])
    size, device = queries.shape[1], queries.device
    if not size or size % 16:
        raise ValueError(f"queries: expected D to be a multiple of 16, got {size}")
    check_tensor("items", items, ["n", size], [torch.float16, torch.int8], device)
    if allowed is not None:
        check_tensor("allowed", allowed, [-(-len(items) // 8)], [torch.uint8], device)
    if (items.dtype == torch.int8) != (scales is not None):
        raise ValueError(f"scales: expected with int8 items only, got items of {items.dtype}")
    if scales is not None:
        check_tensor("scales", scales, [len(items)], [torch.float32], device)
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    return Nearest(*_scan_top_k(queries, items, k, allowed, scales))


def _empty_results(
    queries: Tensor, items: Tensor, k: int, allowed: Tensor | None, scales: Tensor | None
) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return queries.new_empty(shape, dtype=torch.int64), queries.new_empty(shape, dtype=torch.float32)


@custom_op("scan_top_k", _empty_results)
def _scan_top_k(
    queries: Tensor, items: Tensor, k: int, allowed: Tensor | None, scales: Tensor | None
) -> tuple[Tensor, Tensor]:
    results = _empty_results(queries, items, k, allowed, scales)
    count, rows = len(queries), len(items)
    if not count or not rows or k > WIDEST or not runs_kernel(queries):
        _scan_top_k_plain(results, queries, items, k, allowed, scales)
        return results
    width = power_of_two(k, 64, WIDEST)
    tiles = triton.cdiv(rows, width)
    strip = width * max(triton.cdiv(tiles, _STRIPS), min(tiles, _LEAST_TILES))
    strips = triton.cdiv(rows, strip)
    keys = queries.new_empty((count, strips, width), dtype=torch.int64)
    launch(
        _scan_kernel,
        (strips, triton.cdiv(count, _QUERIES)),
        queries.device,
        queries.contiguous(),
        items.contiguous(),
        keys if scales is None else scales.contiguous(),
        keys if allowed is None else allowed.contiguous(),
        keys,
        count,
        rows,
        strip,
        strips,
        SIZE=queries.shape[1],
        HAS_SCALES=scales is not None,
        HAS_ALLOWED=allowed is not None,
        QUERIES=_QUERIES,
        WIDTH=width,
        DEPTH=_DEPTH,
        num_warps=4 if width <= 64 else 8,
    )
    launch(
        _merge_kernel,
        (count,),
        queries.device,
        keys,
        *results,
        strips,
        k,
        WIDTH=width,
        num_warps=1 if width <= 64 else 4,
    )
    return results


@triton.jit
def _scan_kernel(
    queries_ptr,  # float16 [count, SIZE]
    items_ptr,  # float16 or int8 [rows, SIZE]
    scales_ptr,  # float32 [rows]
    allowed_ptr,  # uint8 [ceil(rows / 8)]
    keys_ptr,  # int64 [count, strips, WIDTH], the largest first
    count,
    rows,
    strip,
    strips,
    SIZE: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    HAS_ALLOWED: tl.constexpr,
    QUERIES: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
):
    NOTHING: tl.constexpr = -(2**63)
    query = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    best = tl.full([QUERIES, WIDTH], NOTHING, tl.int64)
    begin = tl.program_id(0) * strip
    for first in range(begin, tl.minimum(begin + strip, rows), WIDTH):
        row = first + tl.arange(0, WIDTH)
        exists = row < rows
        score = tl.zeros([QUERIES, WIDTH], tl.float32)
        for depth in range(0, SIZE, DEPTH):
            column = depth + tl.arange(0, DEPTH)
            left = tl.load(
                queries_ptr + query[:, None] * SIZE + column[None, :],
                mask=(query < count)[:, None] & (column < SIZE)[None, :],
                other=0.0,
            )
            right = tl.load(
                items_ptr + row.to(tl.int64)[None, :] * SIZE + column[:, None],
                mask=exists[None, :] & (column < SIZE)[:, None],
                other=0,
            )
            score = dot(left, right.to(tl.float16), score)
        if HAS_SCALES:
            score *= tl.load(scales_ptr + row, mask=exists, other=0.0)[None, :]
        if HAS_ALLOWED:
            exists = exists & ((tl.load(allowed_ptr + row // 8, mask=exists, other=0) >> (row % 8)) & 1 != 0)
        bits = score.to(tl.int32, bitcast=True)
        ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
        key = (ordered << 32) | (0x7FFFFFFF - row).to(tl.int64)[None, :]
        key = tl.where(exists[None, :] & (score == score), key, NOTHING)
        # Most tiles of a long strip have nothing better than what is known; the least of `best` is its last column.
        better = tl.max(key, axis=1) > tl.min(best, axis=1)
        if tl.max(better.to(tl.int32), axis=0) > 0:
            # The larger of the best, descending, and the tile, ascending, are the best of both.
            best = sorted_rows(tl.maximum(best, sorted_rows(key, False)), True)
    place = keys_ptr + (query.to(tl.int64)[:, None] * strips + tl.program_id(0)) * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(place, best, mask=(query < count)[:, None])


@triton.jit
def _merge_kernel(
    keys_ptr,  # int64 [count, strips, WIDTH]
    rows_ptr,  # int64 [count, k]
    scores_ptr,  # float32 [count, k]
    strips,
    k,
    WIDTH: tl.constexpr,
):
    NOTHING: tl.constexpr = -(2**63)
    query = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, WIDTH)
    own = keys_ptr + query * strips * WIDTH
    best = tl.load(own + lane)[None, :]
    for strip in range(1, strips):
        other = tl.load(own + strip * WIDTH + WIDTH - 1 - lane)[None, :]  # ascending
        if tl.max(tl.max(other, axis=1), axis=0) > tl.min(tl.min(best, axis=1), axis=0):
            best = sorted_rows(tl.maximum(best, other), True)
    best = tl.max(best, axis=0)  # its only row
    ordered = (best >> 32).to(tl.int32)
    score = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    row = 0x7FFFFFFF - (best & 0xFFFFFFFF)
    tl.store(rows_ptr + query * k + lane, tl.where(best == NOTHING, -1, row), mask=lane < k)
    tl.store(scores_ptr + query * k + lane, tl.where(best == NOTHING, float("nan"), score), mask=lane < k)


def _scan_top_k_plain(
    results: tuple[Tensor, Tensor],
    queries: Tensor,
    items: Tensor,
    k: int,
    allowed: Tensor | None,
    scales: Tensor | None,
) -> None:
    """A product and a stable sort in PyTorch; fills ``results``."""
    rows, scores = results
    rows.fill_(-1)
    scores.fill_(torch.nan)
    wide = queries.dtype if queries.is_cuda else torch.float32  # a CPU multiplies float16 slowly
    product = (queries.to(wide) @ items.to(wide).T).float()
    if scales is not None:
        product = product * scales
    possible = ~product.isnan()
    if allowed is not None:
        bits = (allowed[:, None] >> torch.arange(8, device=allowed.device, dtype=torch.uint8)) & 1
        possible = possible & bits.flatten()[: len(items)].bool()
    ranked, order = torch.where(possible, product, -torch.inf).sort(dim=1, descending=True, stable=True)
    # Those that are not possible are behind all that are, however low these score.
    behind = torch.argsort(~possible.gather(1, order), dim=1, stable=True)[:, :k]
    ranked, order = ranked.gather(1, behind), order.gather(1, behind)
    keep = possible.gather(1, order)
    rows[:, : order.shape[1]] = torch.where(keep, order, -1)
    scores[:, : order.shape[1]] = torch.where(keep, ranked, torch.nan)
