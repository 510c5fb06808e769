"""A Llama with random weights in plain PyTorch, on padded prompts; needs nothing but PyTorch."""

from dataclasses import dataclass

import torch
from endcap_kernels.llama_checkpoint import LlamaLayer, LlamaWeights
from endcap_kernels.rotary import rotary_table
from references import reference_rotate
from torch import Tensor
from torch.nn.functional import embedding, linear, rms_norm, scaled_dot_product_attention, silu


@dataclass(frozen=True)
class LlamaSizes:
    """Of a model; a head has 64 numbers, in the smallest model 32."""

    hidden: int = 256
    layers: int = 4
    heads: int = 4
    key_heads: int = 4
    inner: int = 704
    vocabulary: int = 4096
    longest: int = 2048
    head_size: int = 64


LLAMAS = {
    "tiny": LlamaSizes(64, 2, 4, 2, 96, 500, 64, 32),
    "student": LlamaSizes(),
    "135M": LlamaSizes(576, 30, 9, 3, 1536, 49_152),
    "1B": LlamaSizes(2048, 16, 32, 8, 8192, 128_256),
}


def random_llama(sizes: LlamaSizes, device: str, dtype: torch.dtype) -> LlamaWeights:
    """Weights with a scale at which logits differ."""
    generator = torch.Generator(device).manual_seed(0)

    def make(*shape: int, mean: float = 0.0) -> Tensor:
        return (mean + 0.04 * torch.randn(*shape, generator=generator, device=device)).to(dtype)

    lanes = (sizes.heads + 2 * sizes.key_heads) * sizes.head_size
    layers = [
        LlamaLayer(
            gamma=make(sizes.hidden, mean=1),
            qkv=make(lanes, sizes.hidden),
            qkv_bias=None,
            attention=make(sizes.hidden, sizes.heads * sizes.head_size),
            inner_gamma=make(sizes.hidden, mean=1),
            gate_up=make(2 * sizes.inner, sizes.hidden),
            down=make(sizes.hidden, sizes.inner),
        )
        for _ in range(sizes.layers)
    ]
    words = make(sizes.vocabulary, sizes.hidden)
    rotary = rotary_table({"max_position_embeddings": sizes.longest}, sizes.head_size, torch.device(device))
    shape = (sizes.heads, sizes.key_heads, sizes.head_size)
    return LlamaWeights(*shape, 1.0, 1e-6, words, layers, make(sizes.hidden, mean=1), words, rotary)


def padded_logits(weights: LlamaWeights, heads: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
    """Logits of some tokens after prompts that are padded behind, float32 [N, C].

    Args:
        weights: model.
        heads: rows of the language-model head, [C, H].
        ids: int64 [N, longest].
        lengths: tokens of each prompt, int64 [N].
    """
    count, longest = ids.shape
    shape, position = (weights.words.shape[1],), torch.arange(longest, device=ids.device).repeat(count)
    states = embedding(ids, weights.words)
    for layer in weights.layers:
        lanes = linear(rms_norm(states, shape, layer.gamma, weights.eps), layer.qkv)
        qkv = lanes.view(count * longest, -1, weights.head_size)
        qkv = reference_rotate(qkv, weights.heads + weights.key_heads, position, weights.rotary)
        split = [weights.heads, weights.key_heads, weights.key_heads]
        query, key, value = qkv.view(count, longest, -1, weights.head_size).transpose(1, 2).split(split, 1)
        attended = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        states = states + linear(attended.transpose(1, 2).flatten(2), layer.attention)
        gate, up = linear(rms_norm(states, shape, layer.inner_gamma, weights.eps), layer.gate_up).chunk(2, 2)
        states = states + linear(silu(gate) * up, layer.down)
    last = states[torch.arange(count, device=ids.device), lengths - 1]
    return linear(rms_norm(last, shape, weights.gamma, weights.eps).float(), heads.float())
