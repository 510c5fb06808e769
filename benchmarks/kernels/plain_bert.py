"""BERT with random weights in plain PyTorch, on padded sequences; needs nothing but PyTorch."""

from dataclasses import dataclass

import torch
from endcap_kernels.bert_checkpoint import BertLayer, BertWeights
from torch import Tensor
from torch.nn.functional import embedding, gelu, layer_norm, linear, scaled_dot_product_attention


@dataclass(frozen=True)
class Sizes:
    """Of a model; a head has ``hidden / heads`` numbers."""

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    inner: int = 3072
    vocabulary: int = 30_522
    longest: int = 512


MODELS = {
    "tiny": Sizes(64, 2, 2, 96, 2000, 64),
    "MiniLM-L6": Sizes(384, 6, 12, 1536),
    "BERT-base": Sizes(),
}


def random_weights(sizes: Sizes, device: str, dtype: torch.dtype) -> BertWeights:
    """Weights with a scale at which scores differ; those of BERT before training make all scores alike."""
    generator = torch.Generator().manual_seed(0)

    def make(*shape: int, mean: float = 0.0) -> Tensor:
        return (mean + 0.05 * torch.randn(*shape, generator=generator)).to(device, dtype)

    hidden, inner = sizes.hidden, sizes.inner
    layers = [
        BertLayer(
            qkv=make(3 * hidden, hidden),
            qkv_bias=make(3 * hidden),
            attention=make(hidden, hidden),
            attention_bias=make(hidden),
            attention_gamma=make(hidden, mean=1),
            attention_beta=make(hidden),
            up=make(inner, hidden),
            up_bias=make(inner),
            down=make(hidden, inner),
            down_bias=make(hidden),
            output_gamma=make(hidden, mean=1),
            output_beta=make(hidden),
        )
        for _ in range(sizes.layers)
    ]
    return BertWeights(
        heads=sizes.heads,
        eps=1e-12,
        words=make(sizes.vocabulary, hidden),
        positions=make(sizes.longest, hidden),
        types=make(2, hidden),
        gamma=make(hidden, mean=1),
        beta=make(hidden),
        layers=layers,
        pooler=make(hidden, hidden),
        pooler_bias=make(hidden),
        score=make(1, hidden),
        score_bias=make(1),
    )


def padded_states(weights: BertWeights, ids: Tensor, types: Tensor, mask: Tensor) -> Tensor:
    """Last states of padded sequences, [N, longest, H]: ids, types and mask are int64 [N, longest]."""
    shape = (weights.hidden_size,)
    position = torch.arange(ids.shape[1], device=ids.device)
    states = embedding(ids, weights.words) + embedding(types, weights.types) + embedding(position, weights.positions)
    states = layer_norm(states, shape, weights.gamma, weights.beta, weights.eps)
    seen = mask.bool()[:, None, None, :]
    for layer in weights.layers:
        qkv = linear(states, layer.qkv, layer.qkv_bias).unflatten(2, (3, weights.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=seen)
        attended = linear(attended.transpose(1, 2).flatten(2), layer.attention, layer.attention_bias)
        states = layer_norm(states + attended, shape, layer.attention_gamma, layer.attention_beta, weights.eps)
        inner = linear(gelu(linear(states, layer.up, layer.up_bias)), layer.down, layer.down_bias)
        states = layer_norm(states + inner, shape, layer.output_gamma, layer.output_beta, weights.eps)
    return states


def padded_scores(weights: BertWeights, ids: Tensor, types: Tensor, mask: Tensor) -> Tensor:
    """Scores of padded sequences, float32 [N]; arguments of `padded_states`."""
    assert weights.pooler is not None
    assert weights.score is not None
    states = padded_states(weights, ids, types, mask)
    pooled = torch.tanh(linear(states[:, 0], weights.pooler, weights.pooler_bias))
    return linear(pooled, weights.score, weights.score_bias)[:, 0].float()


def padded_vectors(weights: BertWeights, ids: Tensor, types: Tensor, mask: Tensor) -> Tensor:
    """Unit vectors of padded texts by mean pooling, float32 [N, H]; arguments of `padded_states`."""
    states = padded_states(weights, ids, types, mask).float() * mask[..., None]
    return torch.nn.functional.normalize(states.sum(1) / mask.sum(1, keepdim=True), dim=1)
