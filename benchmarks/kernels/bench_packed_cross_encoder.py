"""From ids to scores: the packed encoder beside the padded Hugging Face model, plain and compiled."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from endcap_kernels import PackedCrossEncoder
from torch import Tensor

from benchmarks.kernels.cases import ENDCAP, PLAIN, KernelCase, pair_lengths

CLS, SEPARATOR, QUERY_TOKENS = 101, 102, 6


def _model(name: str, checkpoint: Path | None) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    if checkpoint is not None:
        return BertForSequenceClassification.from_pretrained(checkpoint).eval()
    torch.manual_seed(0)
    shapes: dict[str, dict[str, int]] = {
        "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96},
        "MiniLM-L6": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
        "BERT-base": {},
    }
    settings: dict[str, Any] = {"num_labels": 1, "initializer_range": 0.05, **shapes[name]}
    return BertForSequenceClassification(BertConfig(**settings)).eval()


def _matrix_operations(model: Any, lengths: np.ndarray) -> float:
    """The necessary operations: the last layer's output matrices are needed only for the first token of each pair."""
    config = model.config
    hidden, inner, tokens = config.hidden_size, config.intermediate_size, float(lengths.sum())
    inputs, outputs = 2 * 3 * hidden * hidden, 2 * (hidden * hidden + 2 * hidden * inner)
    attention = 4 * hidden * float((lengths.astype(float) ** 2).sum())
    layers = config.num_hidden_layers
    return float(layers * (tokens * inputs + attention) + ((layers - 1) * tokens + len(lengths)) * outputs)


def requests(
    pairs: int, queries: int, vocabulary: int, seed: int
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Queries with special tokens, products of realistic lengths, and the query of each pair."""
    rng = np.random.default_rng(seed)
    heads = [np.array([CLS, *rng.integers(1000, vocabulary, QUERY_TOKENS), SEPARATOR]) for _ in range(queries)]
    bodies = [rng.integers(1000, vocabulary, max(length - QUERY_TOKENS - 3, 1)) for length in pair_lengths(pairs, seed)]
    return heads, bodies, np.arange(pairs) * queries // pairs


def cases(device: str, small: bool = False, checkpoint: Path | None = None) -> Iterator[KernelCase]:
    """Each case is one request; a checkpoint replaces the models with random weights."""
    sizes = [("tiny", 6, 1)] if small else [("BERT-base", 100, 1), ("MiniLM-L6", 100, 1), ("BERT-base", 1600, 16)]
    if checkpoint is not None and not small:
        sizes = [(checkpoint.name, 100, 1), (checkpoint.name, 1600, 16)]
    for name, pairs, queries in sizes:
        model = _model(name, checkpoint)
        heads, bodies, query = requests(pairs, queries, min(model.config.vocab_size, 30_000), seed=3)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        packed = PackedCrossEncoder.from_model(model, device, dtype)
        packed.load_products(np.concatenate(bodies), np.cumsum([0, *map(len, bodies)]), SEPARATOR)
        product = np.arange(pairs)
        lengths = packed.pair_lengths(heads, query, product)
        plain = _padded(model.to(device, dtype), heads, bodies, query, device)
        yield KernelCase(
            kernel="packed_cross_encoder",
            size=f"{name}, {pairs} pairs, {lengths.mean():.0f} tokens on average (to {lengths.max()})",
            scale=pairs,
            implementations={
                ENDCAP: partial(packed.score_products, heads, query, product),
                PLAIN: plain,
            },
            compiled=partial(_compiled, model, heads, bodies, query, device),
            bytes=0,
            operations=_matrix_operations(model, lengths),
            whole=True,
            tolerance=0.1 if device == "cuda" else 1e-4,
        )


def _padded(
    model: Any, heads: list[np.ndarray], bodies: list[np.ndarray], query: np.ndarray, device: str
) -> Callable[[], Tensor]:
    """Hugging Face on ids padded to a multiple of eight; the padding itself is not timed."""
    rows = [np.array([*heads[q], *body, SEPARATOR]) for q, body in zip(query, bodies, strict=True)]
    width = -(-max(map(len, rows)) // 8) * 8
    ids, types, mask = np.zeros((3, len(rows), width), np.int64)
    for line, row in enumerate(rows):
        ids[line, : len(row)], mask[line, : len(row)] = row, 1
        types[line, len(heads[query[line]]) : len(row)] = 1
    inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
    host = {name: torch.from_numpy(array) for name, array in inputs.items()}
    if device == "cuda":
        host = {name: tensor.pin_memory() for name, tensor in host.items()}

    @torch.no_grad()
    def run() -> Tensor:
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in host.items()}
        scores: Tensor = model(**moved).logits[:, 0].float().cpu()
        return scores

    return run


def _compiled(model: Any, *request: Any) -> Callable[[], Tensor]:
    return _padded(torch.compile(model, dynamic=False), *request)


def accuracy(
    device: str, queries: int = 200, candidates: int = 100, checkpoint: Path | None = None, name: str = "BERT-base"
) -> dict[str, float]:
    """bfloat16 against float32: errors of the packed encoder and of plain torch, and how often their top 10 agrees."""
    model = _model(name, checkpoint)
    vocabulary = min(model.config.vocab_size, 30_000)
    asked = [requests(candidates, 1, vocabulary, seed=100 + number) for number in range(queries)]
    half = PackedCrossEncoder.from_model(model, device, torch.bfloat16)
    products = [body for _, bodies, _ in asked for body in bodies]
    half.load_products(np.concatenate(products), np.cumsum([0, *map(len, products)]), SEPARATOR)
    scores: dict[str, list[Tensor]] = {"packed": [], "exact": [], "plain": []}
    for number, (heads, _, query) in enumerate(asked):
        own = number * candidates + np.arange(candidates)
        scores["packed"].append(half.score_products(heads, query, own).clone())
    for kind, dtype in (("exact", torch.float32), ("plain", torch.bfloat16)):
        model = model.to(device, dtype)
        scores[kind] = [_padded(model, heads, bodies, query, device)() for heads, bodies, query in asked]
    exact = torch.stack(scores["exact"])
    norm = float((exact - exact.mean()).norm())
    best = exact.topk(min(10, candidates)).indices.sort().values
    figures: dict[str, float] = {"queries": queries}
    for kind in ("packed", "plain"):
        got = torch.stack(scores[kind])
        same = got.topk(best.shape[1]).indices.sort().values == best
        figures[f"{kind}_error"] = float((got - exact).norm()) / norm
        figures[f"{kind}_same_top_10"] = float(same.all(1).float().mean())
    return figures
