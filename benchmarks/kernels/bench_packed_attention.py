"""Pairs of realistic lengths, and long sequences; beside SDPA on padded input, FlashAttention and FlexAttention."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from endcap_kernels import packed_attention
from references import reference_packed_attention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.kernels.cases import ENDCAP, PLAIN, KernelCase, compiled, offsets_of, pair_lengths, random


def cases(device: str, small: bool = False) -> Iterator[KernelCase]:
    shapes = (
        [(np.array([3, 9]), 2, 32)]
        if small
        else [
            (pair_lengths(100), 12, 32),
            (pair_lengths(100), 12, 64),
            (pair_lengths(2000), 12, 64),
            (np.full(256, 128), 12, 64),
            (np.full(64, 512), 12, 64),
        ]
    )
    for lengths, heads, size in shapes:
        tokens, longest, offsets = int(lengths.sum()), int(lengths.max()), offsets_of(lengths, device)
        qkv = random(tokens, 3, heads, size, device=device, dtype=torch.bfloat16)
        described = f"{lengths[0]}" if (lengths == lengths[0]).all() else f"{lengths.mean():.0f} (to {longest})"
        implementations: dict[str, Callable[[], Any]] = {
            ENDCAP: partial(packed_attention, qkv, offsets),
            PLAIN: partial(reference_packed_attention, qkv, offsets, longest),
            "sdpa, padded": _padded_sdpa(qkv, lengths),
        }
        if device == "cuda":
            implementations["flash varlen"] = _flash(qkv, offsets, longest)
            implementations["FlexAttention"] = _flex(qkv, lengths)
        yield KernelCase(
            kernel="packed_attention",
            size=f"{len(lengths)} x {described} tokens, {heads} heads of {size}, bf16",
            scale=float((lengths**2).sum()),
            implementations=implementations,
            compiled=compiled(reference_packed_attention, qkv, offsets, longest),
            bytes=2 * 4 * tokens * heads * size,
            operations=4.0 * heads * size * float((lengths.astype(float) ** 2).sum()),
        )


def _padded_sdpa(qkv: Tensor, lengths: np.ndarray) -> Callable[[], Tensor]:
    """The padded model: its input is padded before timing, and only the valid rows of the result are compared."""
    count, longest = len(lengths), int(lengths.max())
    exists = torch.from_numpy(np.arange(longest) < lengths[:, None]).to(qkv.device)
    padded = qkv.new_zeros(count, longest, *qkv.shape[1:])
    padded[exists] = qkv
    query, key, value = padded.permute(2, 0, 3, 1, 4).contiguous()
    mask = None if bool(exists.all()) else exists[:, None, None, :]
    place = torch.nonzero(exists.flatten())[:, 0]

    def run() -> Tensor:
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attended.transpose(1, 2).reshape(count * longest, -1)[place]

    return run


def _flash(qkv: Tensor, offsets: Tensor, longest: int) -> Callable[[], Tensor]:
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = qkv.unbind(1)

    def run() -> Tensor:
        attended = varlen_attn(query, key, value, offsets, offsets, longest, longest)
        assert isinstance(attended, Tensor)
        return attended.reshape(len(qkv), -1)

    return run


def _flex(qkv: Tensor, lengths: np.ndarray) -> Callable[[], Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    tokens = len(qkv)
    sequence = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)).to(qkv.device)

    def same(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sequence[query] == sequence[key]

    mask = create_block_mask(same, None, None, tokens, tokens, device="cuda", _compile=True)
    compiled = torch.compile(flex_attention, dynamic=False)
    query, key, value = (part.transpose(0, 1)[None] for part in qkv.unbind(1))

    def run() -> Tensor:
        attended = compiled(query, key, value, block_mask=mask)
        assert isinstance(attended, Tensor)
        return attended[0].transpose(0, 1).reshape(tokens, -1)

    return run
