"""`add_layer_norm` and `embed_layer_norm`, from the tokens of one request to those of a full batch."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from endcap_kernels import add_layer_norm, embed_layer_norm
from references import reference_add_layer_norm, reference_embed_layer_norm

from benchmarks.kernels.cases import ENDCAP, PLAIN, KernelCase, compiled, random

VOCABULARY = 30_522


def cases(device: str, small: bool = False) -> Iterator[KernelCase]:
    sizes = [(9, 64)] if small else [(4096, 384), (4096, 768), (32_768, 768), (131_072, 768), (32_768, 1024)]
    for tokens, size in sizes:
        vectors = [random(size, device=device, dtype=torch.bfloat16, seed=seed) for seed in range(3)]
        states = [random(tokens, size, device=device, dtype=torch.bfloat16, seed=seed) for seed in (3, 4)]
        added: Any = (*states, *vectors)
        yield KernelCase(
            kernel="add_layer_norm",
            size=f"{tokens} x {size}, bf16",
            scale=tokens,
            implementations={
                ENDCAP: partial(add_layer_norm, *added),
                PLAIN: partial(reference_add_layer_norm, *added),
            },
            compiled=compiled(reference_add_layer_norm, *added),
            bytes=2 * size * 3 * tokens,
        )
        generator = torch.Generator().manual_seed(6)
        indexes = [torch.randint(0, most, (tokens,), generator=generator).to(device) for most in (VOCABULARY, 2, 128)]
        tables = [
            random(rows, size, device=device, dtype=torch.bfloat16, seed=7 + rows) for rows in (VOCABULARY, 2, 512)
        ]
        embedded: Any = (*indexes, *tables, *vectors[:2])
        yield KernelCase(
            kernel="embed_layer_norm",
            size=f"{tokens} x {size}, bf16",
            scale=tokens,
            implementations={
                ENDCAP: partial(embed_layer_norm, *embedded),
                PLAIN: partial(reference_embed_layer_norm, *embedded),
            },
            compiled=compiled(reference_embed_layer_norm, *embedded),
            # A word's row is read from memory once, however often it occurs; the other tables are small.
            bytes=2 * size * (tokens + int(indexes[0].unique().numel())) + 24 * tokens,
        )
