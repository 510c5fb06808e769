"""Pages and searches: queries of 100 to 4 096 candidates, the best 12 to 100."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from endcap_kernels import fuse_top_k
from references import reference_fuse_top_k

from benchmarks.kernels.cases import ENDCAP, PLAIN, KernelCase, compiled, offsets_of, random


def cases(device: str, small: bool = False) -> Iterator[KernelCase]:
    sizes = [(2, 20, 4)] if small else [(4, 100, 12), (256, 100, 12), (4096, 100, 12), (16, 4096, 100)]
    for groups, size, top in sizes:
        offsets, count = offsets_of(np.full(groups, size), device), groups * size
        given = {
            "relevance": random(count, device=device, seed=1),
            "ranker": random(count, device=device, seed=2),
            "boosts": random(count, device=device, seed=3).abs(),
            "mask": random(count, device=device, seed=4) > -1,
            "weights": random(groups, 2, device=device, seed=5).abs(),
            "k": torch.full((groups,), top, device=device),
            "offsets": offsets,
        }
        yield KernelCase(
            kernel="fuse_top_k",
            size=f"best {top} of {groups} x {size}",
            scale=count,
            implementations={
                ENDCAP: partial(fuse_top_k, **given, max_k=top),
                PLAIN: partial(reference_fuse_top_k, **given, longest=size, max_k=top),
            },
            compiled=compiled(reference_fuse_top_k, **given, longest=size, max_k=top),
            bytes=count * (3 * 4 + 1 + 4) + groups * top * 12,
        )
