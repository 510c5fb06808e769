"""Norms, SwiGLU and candidates' logits of Llama-class models, and the pooling of bi-encoders."""

from collections.abc import Iterator
from functools import partial

import torch
from endcap_kernels import add_rms_norm, candidate_logits, pool_normalise, swiglu
from references import (
    reference_add_rms_norm,
    reference_candidate_logits,
    reference_pool_normalise,
    reference_swiglu,
)

from benchmarks.kernels.cases import ENDCAP, PLAIN, KernelCase, compiled, offsets_of, pair_lengths, random

BF16 = torch.bfloat16


def cases(device: str, small: bool = False) -> Iterator[KernelCase]:
    """From the tokens of a page's prompts to those of a full batch."""
    for tokens, size, inner in (
        [(9, 32, 48)] if small else [(2400, 576, 1536), (32_768, 768, 2048), (32_768, 2048, 8192)]
    ):
        x, residual = (random(tokens, size, device=device, dtype=BF16, seed=seed) for seed in range(2))
        gamma = random(size, device=device, dtype=BF16, seed=3)
        yield KernelCase(
            kernel="add_rms_norm",
            size=f"{tokens} x {size}, bf16",
            scale=tokens * size,
            implementations={
                ENDCAP: partial(add_rms_norm, x, gamma, residual),
                PLAIN: partial(reference_add_rms_norm, x, gamma, residual),
            },
            compiled=compiled(reference_add_rms_norm, x, gamma, residual),
            bytes=4 * 2 * tokens * size,
        )
        wide = random(tokens, 2 * inner, device=device, dtype=BF16)
        yield KernelCase(
            kernel="swiglu",
            size=f"{tokens} x {inner}, bf16",
            scale=tokens * inner,
            implementations={ENDCAP: partial(swiglu, wide), PLAIN: partial(reference_swiglu, wide)},
            compiled=compiled(reference_swiglu, wide),
            bytes=3 * 2 * tokens * inner,
        )
    for count, size, most in [(3, 32, 5)] if small else [(16, 256, 60), (64, 2048, 60)]:
        x, residual = (random(count, size, device=device, dtype=BF16, seed=seed) for seed in range(2))
        gamma = random(size, device=device, dtype=BF16, seed=3)
        heads, counts = random(most, size, device=device, dtype=BF16, seed=4), torch.full((count,), most, device=device)
        yield KernelCase(
            kernel="candidate_logits",
            size=f"{count} prompts, {most} candidates, {size}, bf16",
            scale=count * size,
            implementations={
                ENDCAP: partial(candidate_logits, x, residual, gamma, heads, counts),
                PLAIN: partial(reference_candidate_logits, x, residual, gamma, heads, counts),
            },
            compiled=compiled(reference_candidate_logits, x, residual, gamma, heads, counts),
            bytes=2 * size * (2 * count + most) + 4 * count * most,
        )
    for texts, size in [(3, 32)] if small else [(64, 384), (2000, 384), (2000, 768)]:
        lengths = pair_lengths(texts)
        hidden, offsets = random(int(lengths.sum()), size, device=device, dtype=BF16), offsets_of(lengths, device)
        yield KernelCase(
            kernel="pool_normalise",
            size=f"{texts} texts, {lengths.mean():.0f} tokens on average, {size}, bf16",
            scale=len(hidden) * size,
            implementations={
                ENDCAP: partial(pool_normalise, hidden, offsets),
                PLAIN: partial(reference_pool_normalise, hidden.float(), offsets),
            },
            compiled=compiled(reference_pool_normalise, hidden.float(), offsets),
            bytes=2 * hidden.numel() + 4 * texts * size,
        )
