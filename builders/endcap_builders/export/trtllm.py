"""Export of a student for TensorRT-LLM: a Hugging Face checkpoint that its LLM API can load.

TensorRT-LLM reads checkpoints with transformers 4, which does not know some names of transformers 5.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from endcap_builders.export.encoder import quiet
from endcap_builders.llm.tokenizer import load_tokenizer


def export_for_tensorrt_llm(checkpoint: Path, folder: Path) -> None:
    """Write a trained causal LM in bfloat16, with names that transformers 4 and 5 both understand.

    Args:
        checkpoint: folder of the trained model and its tokenizer.
        folder: receives weights, ``config.json``, ``tokenizer.json`` and ``tokenizer_config.json``.
    """
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16, local_files_only=True)
        model.save_pretrained(folder)
        load_tokenizer(checkpoint).save_pretrained(folder)
    _edit(folder / "config.json", _model_names)
    _edit(folder / "tokenizer_config.json", _tokenizer_names)


def _model_names(config: dict[str, Any]) -> dict[str, Any]:
    rope = dict(config.get("rope_parameters") or {})
    old: dict[str, Any] = {"torch_dtype": config["dtype"]}
    if "rope_theta" in rope:
        old["rope_theta"] = rope.pop("rope_theta")
        old["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    return {**config, **old}


def _tokenizer_names(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "tokenizer_class": "PreTrainedTokenizerFast"}


def _edit(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8"))), indent=2) + "\n", encoding="utf-8")
