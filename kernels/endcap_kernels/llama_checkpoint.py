"""Reads Llama-class checkpoints in Hugging Face's format, without Hugging Face's model code.

Llama, Mistral without a sliding window, and Qwen 2 have the same layers with the same names; Qwen's queries, keys and
values have a bias.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from endcap_kernels.checkpoint_files import read_files, reader_of, require
from endcap_kernels.packed_attention import HEAD_SIZES
from endcap_kernels.rotary import rotary_table


@dataclass(frozen=True, eq=False)
class LlamaLayer:
    """Weights of one layer; matrices are [output, input]."""

    gamma: Tensor  # [H], before attention
    qkv: Tensor  # [(heads + 2 * key heads) D, H]
    qkv_bias: Tensor | None  # [(heads + 2 * key heads) D]
    attention: Tensor  # [H, heads * D]
    inner_gamma: Tensor  # [H], before the feed-forward part
    gate_up: Tensor  # [2 I, H]: gates, values
    down: Tensor  # [H, I]


@dataclass(frozen=True, eq=False)
class LlamaWeights:
    """A whole decoder."""

    heads: int
    key_heads: int
    head_size: int
    """D, as the kernels need it: 32, 64 or 128. Heads of other sizes are padded with zeros."""
    scale: float
    """Factor of the scale of attention, 1 unless heads are padded."""
    eps: float
    words: Tensor  # [vocabulary, H]
    layers: list[LlamaLayer]
    gamma: Tensor  # [H]
    head: Tensor  # [vocabulary, H]
    rotary: Tensor  # float32 [longest, D]

    @property
    def longest(self) -> int:
        """Most tokens of a prompt."""
        return len(self.rotary)


def read_llama(checkpoint: str | Path, device: torch.device, dtype: torch.dtype) -> LlamaWeights:
    """Load a checkpoint folder (or the name of one in Hugging Face's local cache or hub).

    Raises:
        ValueError: not a Llama-class checkpoint that the kernels can run; says what was expected and what came.
        FileNotFoundError: no checkpoint there.
    """
    return llama_weights(*read_files(checkpoint), device, dtype)


def llama_weights(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> LlamaWeights:
    """Arrange the tensors of a state dictionary for the packed decoder; raises ValueError."""
    require(
        config,
        {
            "model_type": ("llama", "mistral", "qwen2"),
            "hidden_act": ("silu",),
            "attention_bias": (False, None),
            "mlp_bias": (False, None),
        },
    )
    if config.get("sliding_window") and (config["model_type"] == "mistral" or config.get("use_sliding_window")):
        raise ValueError(f"config.json, sliding_window: expected none, got {config['sliding_window']}")
    heads = int(config["num_attention_heads"])
    key_heads = int(config.get("num_key_value_heads") or heads)
    size = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    room = next((room for room in HEAD_SIZES if room >= size), 0)
    if not room or size % 2 or heads % key_heads:
        raise ValueError(
            f"config.json: expected an even head size up to {HEAD_SIZES[-1]} and heads that are a multiple of the key "
            f"heads, got a size of {size}, {heads} heads and {key_heads} key heads"
        )
    get, optional = reader_of(tensors, device, dtype)
    padded = _Padding(size, room)

    def layer(name: str) -> LlamaLayer:
        parts = [f"{name}.self_attn.{part}_proj" for part in ("q", "k", "v")]
        biases = [bias for part in parts if (bias := optional(f"{part}.bias")) is not None]
        return LlamaLayer(
            gamma=get(f"{name}.input_layernorm.weight"),
            qkv=torch.cat([padded.outputs(get(f"{part}.weight")) for part in parts]),
            qkv_bias=torch.cat([padded.outputs(bias) for bias in biases]) if biases else None,
            attention=padded.inputs(get(f"{name}.self_attn.o_proj.weight")),
            inner_gamma=get(f"{name}.post_attention_layernorm.weight"),
            gate_up=torch.cat([get(f"{name}.mlp.{part}_proj.weight") for part in ("gate", "up")]),
            down=get(f"{name}.mlp.down_proj.weight"),
        )

    words = get("model.embed_tokens.weight")
    return LlamaWeights(
        heads=heads,
        key_heads=key_heads,
        head_size=room,
        scale=(room / size) ** 0.5,
        eps=float(config["rms_norm_eps"]),
        words=words,
        layers=[layer(f"model.layers.{number}") for number in range(int(config["num_hidden_layers"]))],
        gamma=get("model.norm.weight"),
        head=words if config.get("tie_word_embeddings") else get("lm_head.weight"),
        rotary=padded.table(rotary_table(config, size, device)),
    )


@dataclass(frozen=True)
class _Padding:
    """Pads both halves of each head with zeros, so that rotary embeddings find them; their products stay the same."""

    size: int
    room: int

    def outputs(self, tensor: Tensor) -> Tensor:
        """[heads * size, ...] as [heads * room, ...]."""
        if self.size == self.room:
            return tensor
        halves = tensor.reshape(-1, self.size // 2, *tensor.shape[1:])
        result = tensor.new_zeros(len(halves), self.room // 2, *tensor.shape[1:])
        result[:, : self.size // 2] = halves
        return result.reshape(-1, *tensor.shape[1:])

    def inputs(self, matrix: Tensor) -> Tensor:
        """[H, heads * size] as [H, heads * room]."""
        return self.outputs(matrix.T).T.contiguous()

    def table(self, table: Tensor) -> Tensor:
        """Cosines and sines [longest, size] as [longest, room]."""
        return self.outputs(table.T).T.contiguous()
