"""From ids to unit vectors: the packed bi-encoder beside the padded model."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from endcap_kernels import PackedBiEncoder
from endcap_kernels.bert_checkpoint import BertWeights
from torch import Tensor

from benchmarks.kernels.cases import ENDCAP, PLAIN, KernelCase, pair_lengths
from benchmarks.kernels.plain_bert import MODELS, padded_vectors, random_weights


def cases(device: str, small: bool = False) -> Iterator[KernelCase]:
    """Searches of one page, and texts of products."""
    shapes = [("tiny", 3, 12)] if small else [("MiniLM-L6", 1, 8), ("MiniLM-L6", 64, 8), ("MiniLM-L6", 2000, 40)]
    for name, count, mean in shapes:
        model, dtype = MODELS[name], torch.bfloat16 if device == "cuda" else torch.float32
        weights = random_weights(model, device, dtype)
        lengths = pair_lengths(count, seed=6, mean=mean, longest=min(128, model.longest))
        rng = np.random.default_rng(7)
        texts = [rng.integers(0, model.vocabulary, length) for length in lengths]
        encoder = PackedBiEncoder(weights)
        yield KernelCase(
            kernel="packed_bi_encoder",
            size=f"{name}, {count} texts, {lengths.mean():.0f} tokens on average",
            scale=float(lengths.sum()),
            implementations={
                ENDCAP: partial(encoder.encode, texts),
                PLAIN: _padded(padded_vectors, weights, texts, device),
            },
            compiled=lambda weights=weights, texts=texts: _padded(  # type: ignore[misc]
                torch.compile(padded_vectors, dynamic=False), weights, texts, device
            ),
            bytes=0,
            operations=float(
                model.layers
                * (
                    lengths.sum() * 2 * model.hidden * (4 * model.hidden + 2 * model.inner)
                    + 4 * model.hidden * (lengths.astype(float) ** 2).sum()
                )
            ),
            whole=True,
            tolerance=0.1 if device == "cuda" else 1e-4,
        )


def _padded(
    vectors: Callable[..., Tensor], weights: BertWeights, texts: list[np.ndarray], device: str
) -> Callable[[], Tensor]:
    """The padded model; the padding itself is not timed."""
    width = -(-max(map(len, texts)) // 8) * 8
    inputs = np.zeros((3, len(texts), width), np.int64)  # ids, types, mask
    for line, text in enumerate(texts):
        inputs[0, line, : len(text)], inputs[2, line, : len(text)] = text, 1
    host = torch.from_numpy(inputs)
    if device == "cuda":
        host = host.pin_memory()

    @torch.no_grad()
    def run() -> Tensor:
        return vectors(weights, *host.to(device, non_blocking=True)).cpu()

    return run
