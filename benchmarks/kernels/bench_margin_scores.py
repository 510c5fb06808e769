"""`margin_scores` for 1 to 10 000 rows, in the sizes of MiniLM, BERT-base and BERT-large."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from endcap_kernels import margin_scores
from references import reference_margin_scores

from benchmarks.kernels.cases import ENDCAP, PLAIN, KernelCase, compiled, offsets_of, pair_lengths, random


def cases(device: str, small: bool = False) -> Iterator[KernelCase]:
    sizes = [(5, 64)] if small else [(1, 768), (100, 768), (1000, 768), (10_000, 768), (1000, 384), (1000, 1024)]
    for rows, size in sizes:
        lengths = np.minimum(pair_lengths(rows), 8)  # only the first tokens are read
        hidden = random(int(lengths.sum()), size, device=device, dtype=torch.bfloat16)
        shapes = ((size, size), (size,), (size,), (1,))
        weights = tuple(
            random(*shape, device=device, dtype=torch.bfloat16, seed=seed, scale=size**-0.5)
            for seed, shape in enumerate(shapes)
        )
        arguments = (hidden, offsets_of(lengths, device), *weights)
        yield KernelCase(
            kernel="margin_scores",
            size=f"{rows} rows of {size}, bf16",
            scale=rows,
            implementations={
                ENDCAP: partial(margin_scores, *arguments),
                PLAIN: partial(reference_margin_scores, *arguments),
            },
            compiled=compiled(reference_margin_scores, *arguments),
            bytes=2 * size * (rows + size) + 8 * rows,
            operations=2 * rows * size * size,
        )
