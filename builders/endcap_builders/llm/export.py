"""Export of a student to what the serving engine loads: an OpenVINO model with compressed weights, and its tokenizer."""

import logging
import shutil
from pathlib import Path
from typing import Any

import openvino

_BITS = {"int8": 8, "int4": 4}


def export_student(checkpoint: Path, folder: Path, weights: str = "int8") -> None:
    """Export a saved checkpoint, offline and in this process.

    Args:
        checkpoint: a Hugging Face causal LM with its tokenizer (``tokenizer.json``).
        folder: receives model, tokenizer and detokenizer.
        weights: "int8", "int4" or "fp16".

    Raises:
        ValueError: the tokenizer is not a fast one.
    """
    # Seconds of import that only an export needs.
    from openvino_tokenizers import convert_tokenizer
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    if not tokenizer.is_fast:
        raise ValueError(f"{checkpoint}: expected a fast tokenizer (tokenizer.json), got {type(tokenizer).__name__}")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    quantization = OVWeightQuantizationConfig(bits=_BITS[weights]) if weights in _BITS else None
    model = OVModelForCausalLM.from_pretrained(
        checkpoint,
        export=True,
        compile=False,
        local_files_only=True,
        quantization_config=quantization,
        load_in_8bit=None if quantization else False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    converted = convert_tokenizer(tokenizer, with_detokenizer=True, skip_special_tokens=True)
    for name, part in zip(("openvino_tokenizer", "openvino_detokenizer"), converted, strict=True):
        openvino.save_model(part, folder / f"{name}.xml")
    tokenizer.save_pretrained(folder)
    if not (folder / "tokenizer.json").exists():
        shutil.copy(checkpoint / "tokenizer.json", folder)
