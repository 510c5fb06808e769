"""The forward pass of a BERT-class encoder on flat tokens: no padding, fused kernels between the products of cuBLAS."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from endcap_kernels.add_layer_norm import add_layer_norm
from endcap_kernels.bert_checkpoint import BertLayer, BertWeights
from endcap_kernels.checks import FLOATS, INTEGERS, check_offsets, check_tensor
from endcap_kernels.embed_layer_norm import embed_layer_norm
from endcap_kernels.gelu_bias import gelu_bias
from endcap_kernels.packed_attention import packed_attention


def packed_positions(offsets: Tensor, tokens: int) -> Tensor:
    """Position of each token in its sequence: type of ``offsets`` [tokens]; does not wait for a GPU.

    Tokens after the last sequence, which pad a bucket, get position 0.
    """
    token = torch.arange(tokens, dtype=offsets.dtype, device=offsets.device)
    if len(offsets) < 2:
        return torch.zeros_like(token)
    sequence = (torch.searchsorted(offsets, token, right=True) - 1).clamp(max=len(offsets) - 2)
    return torch.where(token < offsets[-1], token - offsets[sequence], 0)


def encode(
    weights: BertWeights,
    ids: Tensor,
    types: Tensor,
    positions: Tensor,
    offsets: Tensor,
    tiles: Tensor,
    first_only: bool = False,
    gelu_in_product: bool = False,
) -> Tensor:
    """Hidden states of all tokens, [tokens, H]; or only of the first token of each sequence, [N, H].

    In the latter case, keys and values of the last layer still come from all tokens, but its output matrices, three
    quarters of a layer's work, are computed for one token per sequence.

    Args:
        weights: model.
        ids: int32 or int64 [tokens], as are ``types`` and ``positions``.
        types: see there.
        positions: see there.
        offsets: first token of each sequence, and the end of the last: int32 or int64 [N + 1].
        tiles: `packed_attention.tile_map` of the offsets.
        first_only: see above.
        gelu_in_product: see `feed_forward`.
    """
    first = offsets[:-1].clamp(max=max(len(ids) - 1, 0)).long() if first_only else None
    if not len(ids):
        return weights.words.new_zeros(0 if first is None else len(first), weights.hidden_size)
    tables = (weights.words, weights.types, weights.positions)
    hidden = embed_layer_norm(ids, types, positions, *tables, weights.gamma, weights.beta, weights.eps)
    for number, layer in enumerate(weights.layers):
        last = number == len(weights.layers) - 1
        hidden = _layer(weights, layer, hidden, offsets, tiles, first if last else None, gelu_in_product)
    return hidden


def _layer(
    weights: BertWeights,
    layer: BertLayer,
    hidden: Tensor,
    offsets: Tensor,
    tiles: Tensor,
    first: Tensor | None,
    gelu_in_product: bool,
) -> Tensor:
    qkv = linear(hidden, layer.qkv, layer.qkv_bias).view(len(hidden), 3, weights.heads, -1)
    attended = packed_attention(qkv, offsets, tiles)
    if first is not None:
        attended, hidden = attended[first], hidden[first]
    attended = linear(attended, layer.attention)
    norm = (layer.attention_gamma, layer.attention_beta, layer.attention_bias, weights.eps)
    hidden = add_layer_norm(attended, hidden, *norm)
    inner = feed_forward(hidden, layer.up, layer.up_bias, gelu_in_product)
    norm = (layer.output_gamma, layer.output_beta, layer.down_bias, weights.eps)
    return add_layer_norm(linear(inner, layer.down), hidden, *norm)


def feed_forward(hidden: Tensor, up: Tensor, bias: Tensor, gelu_in_product: bool) -> Tensor:
    """gelu(hidden @ up.T + bias): [tokens, I].

    With ``gelu_in_product`` the matrix library adds the bias and computes GELU in the product's epilogue, which saves
    one pass over the largest activations. On a GPU that is GELU's approximation by tanh, with an error up to 5e-4.
    """
    if gelu_in_product:
        return torch._addmm_activation(bias, hidden, up.T, use_gelu=True)
    return gelu_bias(linear(hidden, up), bias)


def checked_positions(weights: BertWeights, ids: Tensor, types: Tensor, offsets: Tensor) -> Tensor:
    """Positions of packed tokens; raises ValueError for a wrong shape, type or device, or (on the CPU) length."""
    device = weights.words.device
    check_tensor("ids", ids, ["tokens"], INTEGERS, device)
    check_tensor("types", types, [len(ids)], [ids.dtype], device)
    check_offsets(offsets, len(ids), device)
    if device.type == "cpu" and len(offsets) > 1:
        longest = int((offsets[1:] - offsets[:-1]).max())
        if longest > weights.longest:
            raise ValueError(f"offsets: expected sequences of at most {weights.longest} tokens, got {longest}")
    return packed_positions(offsets, len(ids)).to(ids.dtype)


def placed(device: str | torch.device | None, dtype: torch.dtype | None) -> tuple[torch.device, torch.dtype]:
    """Device and type of a model: by default the GPU if there is one, and bfloat16 there, else float32.

    Raises:
        ValueError: a type that the kernels do not support.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    if dtype not in FLOATS:
        raise ValueError(f"dtype: expected float32, bfloat16 or float16, got {dtype}")
    return device, dtype
