"""Groups of 8 to 4 096 products."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from endcap_kernels import pairwise_margins
from test_pairwise_margins import reference_pairwise_margins

from benchmarks.kernels.cases import ENDCAP, PLAIN, KernelCase, compiled, offsets_of, random


def cases(device: str, small: bool = False) -> Iterator[KernelCase]:
    sizes = [(2, 20)] if small else [(256, 8), (256, 100), (4096, 36), (1, 4096)]
    for groups, size in sizes:
        rng = np.random.default_rng(1)
        lengths = np.full(groups, size) if size in (100, 4096) else rng.integers(size // 2, 3 * size // 2 + 1, groups)
        offsets, count, longest = offsets_of(lengths, device), int(lengths.sum()), int(lengths.max())
        scores = random(count, device=device)
        yield KernelCase(
            kernel="pairwise_margins",
            size=f"{groups} groups of {size}",
            scale=count,
            implementations={
                ENDCAP: partial(pairwise_margins, scores, offsets, 0.5),
                PLAIN: partial(reference_pairwise_margins, scores, offsets, 0.5, longest),
            },
            compiled=compiled(reference_pairwise_margins, scores, offsets, 0.5, longest),
            bytes=count * (4 + 3 * 4 + 8),
        )
