"""Prompts with numbered candidates to logits of the numbers: the packed ranker beside the padded model."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from endcap_kernels import PackedRanker
from torch import Tensor

from benchmarks.kernels.cases import ENDCAP, PLAIN, KernelCase, pair_lengths
from benchmarks.kernels.plain_llama import LLAMAS, LlamaSizes, padded_logits, random_llama


def matrix_operations(sizes: LlamaSizes, lengths: np.ndarray, candidates: int) -> float:
    """The necessary operations: behind the last attention, only the last token of each prompt is needed."""
    tokens, wide = float(lengths.sum()), sizes.heads * sizes.head_size
    inputs = 2 * sizes.hidden * (wide + 2 * sizes.key_heads * sizes.head_size)
    outputs = 2 * sizes.hidden * (wide + 3 * sizes.inner)
    attention = 2 * wide * float((lengths.astype(float) ** 2).sum())
    ends = len(lengths) * 2 * sizes.hidden * candidates
    return sizes.layers * (tokens * inputs + attention) + ((sizes.layers - 1) * tokens + len(lengths)) * outputs + ends


def cases(device: str, small: bool = False) -> Iterator[KernelCase]:
    """Each case is one request: all placements of a page, or of several pages."""
    shapes = (
        [("tiny", 2, 20, 5)]
        if small
        else [("student", 8, 300, 40), ("135M", 8, 300, 40), ("135M", 64, 300, 40), ("1B", 8, 300, 40)]
    )
    for name, prompts, mean, candidates in shapes:
        sizes, dtype = LLAMAS[name], torch.bfloat16 if device == "cuda" else torch.float32
        weights = random_llama(sizes, device, dtype)
        lengths = pair_lengths(prompts, seed=4, mean=mean, longest=min(2 * mean, sizes.longest))
        rng = np.random.default_rng(5)
        texts = [rng.integers(0, sizes.vocabulary, length) for length in lengths]
        numbers, counts = np.arange(10, 10 + candidates), np.full(prompts, candidates)
        ranker = PackedRanker(weights, numbers)
        heads = weights.head[torch.from_numpy(numbers).to(device)]

        def packed(
            ranker: PackedRanker = ranker, texts: list[np.ndarray] = texts, counts: np.ndarray = counts
        ) -> Tensor:
            return torch.from_numpy(ranker.rank(texts, counts).logit)

        padded = (weights, heads, texts, device)
        yield KernelCase(
            kernel="packed_ranker",
            size=f"{name}, {prompts} prompts, {lengths.mean():.0f} tokens on average, {candidates} candidates",
            scale=float(lengths.sum()),
            implementations={ENDCAP: packed, PLAIN: _padded(padded_logits, *padded)},
            compiled=lambda padded=padded: _padded(torch.compile(padded_logits, dynamic=False), *padded),  # type: ignore[misc]
            bytes=0,
            operations=matrix_operations(sizes, lengths, candidates),
            whole=True,
            tolerance=0.1 if device == "cuda" else 1e-4,
        )


def _padded(
    logits: Callable[..., Tensor], weights: object, heads: Tensor, texts: list[np.ndarray], device: str
) -> Callable[[], Tensor]:
    """The padded model; the padding itself is not timed."""
    lengths = torch.tensor([len(text) for text in texts])
    width = -(-int(lengths.max()) // 8) * 8
    ids = torch.stack([torch.from_numpy(np.pad(text, (0, width - len(text)))) for text in texts])
    host = (ids.pin_memory(), lengths.pin_memory()) if device == "cuda" else (ids, lengths)

    @torch.no_grad()
    def run() -> Tensor:
        return logits(weights, heads, *(tensor.to(device, non_blocking=True) for tensor in host)).cpu()

    return run
