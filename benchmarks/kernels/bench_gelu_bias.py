"""`gelu_bias` in the sizes of the feed-forward layers of MiniLM, BERT-base and BERT-large."""

from collections.abc import Iterator
from functools import partial

import torch
from endcap_kernels import gelu_bias
from references import reference_gelu_bias

from benchmarks.kernels.cases import ENDCAP, PLAIN, KernelCase, compiled, random


def cases(device: str, small: bool = False) -> Iterator[KernelCase]:
    for tokens, size in [(9, 96)] if small else [(4096, 1536), (4096, 3072), (32_768, 3072), (32_768, 4096)]:
        arguments = (
            random(tokens, size, device=device, dtype=torch.bfloat16),
            random(size, device=device, dtype=torch.bfloat16, seed=1),
        )
        yield KernelCase(
            kernel="gelu_bias",
            size=f"{tokens} x {size}, bf16",
            scale=tokens * size,
            implementations={
                ENDCAP: partial(gelu_bias, *arguments),
                PLAIN: partial(reference_gelu_bias, *arguments),
            },
            compiled=compiled(reference_gelu_bias, *arguments),
            bytes=2 * 2 * tokens * size,
        )
