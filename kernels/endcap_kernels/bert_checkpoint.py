"""Reads BERT-class checkpoints in Hugging Face's format, without Hugging Face's model code.

BERT, MiniLM and their ``ForSequenceClassification`` have the same layers with the same names, so ``config.json`` and
``model.safetensors`` of a folder are sufficient.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


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
    folder = Path(checkpoint)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(str(checkpoint), allow_patterns=["config.json", "*.safetensors*"]))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"checkpoint: expected a folder or a model's name, got {checkpoint}: {error}"
            ) from None
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder / 'config.json'}: expected a Hugging Face checkpoint, found none")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return bert_weights(config, _read_tensors(folder), device, dtype)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    elif (folder / "model.safetensors").exists():
        names = ["model.safetensors"]
    else:
        raise FileNotFoundError(f"{folder / 'model.safetensors'}: expected the weights of the checkpoint, found none")
    return {key: tensor for name in names for key, tensor in load_file(folder / name).items()}


def check_config(config: Mapping[str, Any]) -> None:
    """Raise ValueError unless the kernels support a model of this configuration."""
    expected: dict[str, tuple[Any, ...]] = {
        "model_type": ("bert",),
        "hidden_act": ("gelu",),
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
    }
    for name, values in expected.items():
        if config.get(name) not in values:
            raise ValueError(f"config.json, {name}: expected {values[0]}, got {config.get(name)!r}")
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    if hidden % heads or hidden // heads not in (32, 64):
        raise ValueError(f"config.json: expected heads of 32 or 64, got hidden_size {hidden} for {heads} heads")


def bert_weights(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> BertWeights:
    """Arrange the tensors of a state dictionary for the packed encoder; raises ValueError."""
    check_config(config)
    prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""

    def optional(name: str) -> Tensor | None:
        tensor = tensors.get(name)
        return None if tensor is None else tensor.detach().to(device, dtype).contiguous()

    def get(name: str) -> Tensor:
        tensor = optional(prefix + name)
        if tensor is None:
            raise ValueError(f"checkpoint: expected a tensor {prefix + name}, got {len(tensors)} others")
        return tensor

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
