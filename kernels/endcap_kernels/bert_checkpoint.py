"""Reads BERT-class checkpoints in Hugging Face's format, without Hugging Face's model code.

BERT, MiniLM and their ``ForSequenceClassification`` have the same layers with the same names, so ``config.json`` and
``model.safetensors`` of a folder are sufficient.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from endcap_kernels.checkpoint_files import read_files, reader_of, require


@dataclass(frozen=True, eq=False)
class BertLayer:
    """Weights of one layer; matrices are [output, input]."""

    qkv: Tensor  # [3 H, H]: queries, keys, values
    qkv_bias: Tensor  # [3 H]
    attention: Tensor  # [H, H]
    attention_bias: Tensor  # [H]
    attention_gamma: Tensor  # [H]
    attention_beta: Tensor  # [H]
    up: Tensor  # [I, H]
    up_bias: Tensor  # [I]
    down: Tensor  # [H, I]
    down_bias: Tensor  # [H]
    output_gamma: Tensor  # [H]
    output_beta: Tensor  # [H]


@dataclass(frozen=True, eq=False)
class BertWeights:
    """A whole encoder, and its head if it has one."""

    heads: int
    eps: float
    words: Tensor  # [vocabulary, H]
    positions: Tensor  # [longest sequence, H]
    types: Tensor  # [types, H]
    gamma: Tensor  # [H]
    beta: Tensor  # [H]
    layers: list[BertLayer]
    pooler: Tensor | None  # [H, H]
    pooler_bias: Tensor | None  # [H]
    score: Tensor | None  # [labels, H]
    score_bias: Tensor | None  # [labels]

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.words.shape[1]

    @property
    def longest(self) -> int:
        """Most tokens of a sequence."""
        return len(self.positions)


def read_checkpoint(checkpoint: str | Path, device: torch.device, dtype: torch.dtype) -> BertWeights:
    """Load a checkpoint folder (or the name of one in Hugging Face's local cache or hub).

    Raises:
        ValueError: not a BERT-class checkpoint that the kernels can run; says what was expected and what came.
        FileNotFoundError: no checkpoint there.
    """
    return bert_weights(*read_files(checkpoint), device, dtype)


def check_config(config: Mapping[str, Any]) -> None:
    """Raise ValueError unless the kernels support a model of this configuration."""
    require(
        config,
        {
            "model_type": ("bert",),
            "hidden_act": ("gelu",),
            "position_embedding_type": ("absolute", None),
            "is_decoder": (False, None),
        },
    )
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    if hidden % heads or hidden // heads not in (32, 64):
        raise ValueError(f"config.json: expected heads of 32 or 64, got hidden_size {hidden} for {heads} heads")


def bert_weights(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> BertWeights:
    """Arrange the tensors of a state dictionary for the packed encoder; raises ValueError."""
    check_config(config)
    # Names of BERT's first checkpoints, which transformers 5 writes again for models that it has loaded.
    renamed = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    tensors = {
        next((name.removesuffix(old) + new for old, new in renamed.items() if name.endswith(old)), name): tensor
        for name, tensor in tensors.items()
    }
    prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""

    read, optional = reader_of(tensors, device, dtype)

    def get(name: str) -> Tensor:
        return read(prefix + name)

    def layer(name: str) -> BertLayer:
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        return BertLayer(
            qkv=torch.cat([get(f"{part}.weight") for part in parts]),
            qkv_bias=torch.cat([get(f"{part}.bias") for part in parts]),
            attention=get(f"{name}.attention.output.dense.weight"),
            attention_bias=get(f"{name}.attention.output.dense.bias"),
            attention_gamma=get(f"{name}.attention.output.LayerNorm.weight"),
            attention_beta=get(f"{name}.attention.output.LayerNorm.bias"),
            up=get(f"{name}.intermediate.dense.weight"),
            up_bias=get(f"{name}.intermediate.dense.bias"),
            down=get(f"{name}.output.dense.weight"),
            down_bias=get(f"{name}.output.dense.bias"),
            output_gamma=get(f"{name}.output.LayerNorm.weight"),
            output_beta=get(f"{name}.output.LayerNorm.bias"),
        )

    return BertWeights(
        heads=int(config["num_attention_heads"]),
        eps=float(config["layer_norm_eps"]),
        words=get("embeddings.word_embeddings.weight"),
        positions=get("embeddings.position_embeddings.weight"),
        types=get("embeddings.token_type_embeddings.weight"),
        gamma=get("embeddings.LayerNorm.weight"),
        beta=get("embeddings.LayerNorm.bias"),
        layers=[layer(f"encoder.layer.{number}") for number in range(int(config["num_hidden_layers"]))],
        pooler=optional(f"{prefix}pooler.dense.weight"),
        pooler_bias=optional(f"{prefix}pooler.dense.bias"),
        score=optional("classifier.weight"),
        score_bias=optional("classifier.bias"),
    )
