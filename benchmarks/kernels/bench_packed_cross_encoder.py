"""From ids to scores: the packed encoder beside the padded model, plain and compiled. The headline figure."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from endcap_kernels import PackedCrossEncoder
from endcap_kernels.bert_checkpoint import BertWeights
from torch import Tensor

from benchmarks.kernels.cases import ENDCAP, PLAIN, KernelCase, pair_lengths
from benchmarks.kernels.plain_bert import MODELS, Sizes, padded_scores, random_weights

CLS, SEPARATOR, QUERY_TOKENS = 101, 102, 6


def matrix_operations(sizes: Sizes, lengths: np.ndarray) -> float:
    """The necessary operations: the last layer's output matrices are needed only for the first token of each pair."""
    hidden, tokens = sizes.hidden, float(lengths.sum())
    inputs, outputs = 2 * 3 * hidden * hidden, 2 * (hidden * hidden + 2 * hidden * sizes.inner)
    attention = 4 * hidden * float((lengths.astype(float) ** 2).sum())
    return float(sizes.layers * (tokens * inputs + attention) + ((sizes.layers - 1) * tokens + len(lengths)) * outputs)


def requests(
    pairs: int, queries: int, vocabulary: int, seed: int, longest: int = 128
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Queries with special tokens, products of realistic lengths, and the query of each pair."""
    rng = np.random.default_rng(seed)
    low = min(1000, vocabulary // 2)
    heads = [np.array([CLS, *rng.integers(low, vocabulary, QUERY_TOKENS), SEPARATOR]) for _ in range(queries)]
    lengths = pair_lengths(pairs, seed, longest=longest)
    bodies = [rng.integers(low, vocabulary, max(length - QUERY_TOKENS - 3, 1)) for length in lengths]
    return heads, bodies, np.arange(pairs) * queries // pairs


def cases(device: str, small: bool = False) -> Iterator[KernelCase]:
    """Each case is one request."""
    sizes = (
        [("tiny", 6, 1)]
        if small
        else [("BERT-base", 100, 1), ("MiniLM-L6", 100, 1), ("MiniLM-L6", 240, 8), ("BERT-base", 1600, 16)]
    )
    for name, pairs, queries in sizes:
        model, dtype = MODELS[name], torch.bfloat16 if device == "cuda" else torch.float32
        weights = random_weights(model, device, dtype)
        heads, bodies, query = requests(pairs, queries, model.vocabulary, seed=3, longest=min(128, model.longest))
        packed, in_product = _packed(weights, bodies), _packed(weights, bodies, gelu_in_product=True)
        product = np.arange(pairs)
        lengths = packed.pair_lengths(heads, query, product)
        padded = (heads, bodies, query, device)
        yield KernelCase(
            kernel="packed_cross_encoder",
            size=f"{name}, {pairs} pairs, {lengths.mean():.0f} tokens on average (to {lengths.max()})",
            scale=pairs,
            implementations={
                ENDCAP: partial(packed.score_products, heads, query, product),
                "GELU in product": partial(in_product.score_products, heads, query, product),
                PLAIN: _padded(padded_scores, weights, *padded),
            },
            compiled=lambda weights=weights, padded=padded: _padded(  # type: ignore[misc]
                torch.compile(padded_scores, dynamic=False), weights, *padded
            ),
            bytes=0,
            operations=matrix_operations(model, lengths),
            whole=True,
            tolerance=0.1 if device == "cuda" else 1e-4,
        )


def _packed(weights: BertWeights, bodies: list[np.ndarray], gelu_in_product: bool = False) -> PackedCrossEncoder:
    packed = PackedCrossEncoder(weights, gelu_in_product)
    packed.load_products(np.concatenate(bodies), np.cumsum([0, *map(len, bodies)]), SEPARATOR)
    return packed


def _padded(
    scores: Callable[..., Tensor],
    weights: BertWeights,
    heads: list[np.ndarray],
    bodies: list[np.ndarray],
    query: np.ndarray,
    device: str,
) -> Callable[[], Tensor]:
    """The padded model on ids padded to a multiple of eight; the padding itself is not timed."""
    rows = [np.array([*heads[q], *body, SEPARATOR]) for q, body in zip(query, bodies, strict=True)]
    width = -(-max(map(len, rows)) // 8) * 8
    inputs = np.zeros((3, len(rows), width), np.int64)  # ids, types, mask
    for line, row in enumerate(rows):
        inputs[0, line, : len(row)], inputs[2, line, : len(row)] = row, 1
        inputs[1, line, len(heads[query[line]]) : len(row)] = 1
    host = torch.from_numpy(inputs)
    if device == "cuda":
        host = host.pin_memory()

    @torch.no_grad()
    def run() -> Tensor:
        return scores(weights, *host.to(device, non_blocking=True)).cpu()

    return run


def accuracy(device: str, queries: int = 200, candidates: int = 100, name: str = "BERT-base") -> dict[str, float]:
    """bfloat16 against float32: errors of the packed encoder and of plain torch, and overlaps of their top 10."""
    model = MODELS[name]
    longest = min(128, model.longest)
    asked = [requests(candidates, 1, model.vocabulary, seed=100 + number, longest=longest) for number in range(queries)]
    half, exact = (random_weights(model, device, dtype) for dtype in (torch.bfloat16, torch.float32))
    packed = _packed(half, [body for _, bodies, _ in asked for body in bodies])
    scores: dict[str, list[Tensor]] = {"packed": [], "plain": [], "exact": []}
    for number, (heads, bodies, query) in enumerate(asked):
        own = number * candidates + np.arange(candidates)
        scores["packed"].append(packed.score_products(heads, query, own).clone())
        scores["plain"].append(_padded(padded_scores, half, heads, bodies, query, device)())
        scores["exact"].append(_padded(padded_scores, exact, heads, bodies, query, device)())
    wanted = torch.stack(scores["exact"])
    norm, count = float((wanted - wanted.mean()).norm()), min(10, candidates)
    best = torch.zeros_like(wanted).scatter(1, wanted.topk(count).indices, 1.0)
    figures: dict[str, float] = {"queries": queries}
    for kind in ("packed", "plain"):
        got = torch.stack(scores[kind])
        figures[f"{kind}_error"] = float((got - wanted).norm()) / norm
        figures[f"{kind}_overlap_at_10"] = float(best.gather(1, got.topk(count).indices).sum(1).mean()) / count
    return figures
