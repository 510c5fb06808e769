"""Exact search in a million vectors, for a page of one query and a batch of sixteen."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from endcap_kernels import scan_top_k
from torch import Tensor

from benchmarks.kernels.cases import ENDCAP, PLAIN, KernelCase, random


def _plain(queries: Tensor, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
    scores, rows = (queries @ items.T).float().topk(k, dim=1)
    return rows, scores


def cases(device: str, small: bool = False) -> Iterator[KernelCase]:
    for rows, count, k in [(90, 2, 5)] if small else [(1_000_000, 1, 100), (1_000_000, 16, 100), (100_000, 16, 60)]:
        size = 16 if small else 384
        items = random(rows, size, device=device, dtype=torch.float16, scale=size**-0.5)
        queries = random(count, size, device=device, dtype=torch.float16, seed=1)

        def scores(search: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
            """Rows of almost equal scores can change places, so scores are compared."""
            return search()[1]

        yield KernelCase(
            kernel="scan_top_k",
            size=f"best {k} of {rows} x {size} for {count} queries, fp16",
            scale=rows * count,
            implementations={
                ENDCAP: partial(scores, partial(scan_top_k, queries, items, k)),
                PLAIN: partial(scores, partial(_plain, queries, items, k)),
            },
            bytes=2 * rows * size,
            operations=2.0 * rows * size * count,
        )
