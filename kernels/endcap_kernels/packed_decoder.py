"""The forward pass of a Llama-class decoder on flat tokens, up to the last token of each prompt."""

from torch import Tensor
from torch.nn.functional import embedding, linear

from endcap_kernels.candidate_logits import candidate_logits
from endcap_kernels.llama_checkpoint import LlamaWeights
from endcap_kernels.packed_attention import causal_attention
from endcap_kernels.rms_norm import add_rms_norm
from endcap_kernels.rotary import rotate
from endcap_kernels.sequence_batches import SequenceBatch
from endcap_kernels.swiglu import swiglu


def last_logits(weights: LlamaWeights, batch: SequenceBatch, heads: Tensor) -> Tensor:
    """Logits of some tokens after each prompt: float32 [N, C]; NaN from a prompt's number of candidates on.

    Keys and values of the last layer come from all tokens; everything behind its attention is computed for the last
    token of each prompt only.

    Args:
        weights: model.
        batch: prompts; ``batch.values`` has the number of candidates of each. No prompt without tokens has any.
        heads: rows of ``weights.head`` for the candidates' tokens, [C, H].
    """
    last = (batch.offsets[1:] - 1).clamp_min(0).long()
    total = embedding(batch.ids, weights.words)
    normed = add_rms_norm(total, weights.layers[0].gamma, eps=weights.eps).normed
    for number, layer in enumerate(weights.layers):
        qkv = linear(normed, layer.qkv, layer.qkv_bias).view(len(normed), -1, weights.head_size)
        rotate(qkv, weights.heads + weights.key_heads, batch.positions, weights.rotary)
        attended = causal_attention(qkv, weights.heads, batch.offsets, batch.tiles, weights.scale)
        if number == len(weights.layers) - 1:
            attended, total = attended[last], total[last]
        total, normed = add_rms_norm(linear(attended, layer.attention), layer.inner_gamma, total, weights.eps)
        inner = linear(swiglu(linear(normed, layer.gate_up)), layer.down)
        if number < len(weights.layers) - 1:
            total, normed = add_rms_norm(inner, weights.layers[number + 1].gamma, total, weights.eps)
    return candidate_logits(inner, total, weights.gamma, heads, batch.values, weights.eps)
