"""Export of a student for the serving engine: an OpenVINO model with compressed weights, and a tokenizer."""

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openvino
from transformers.utils import logging as transformers_logging

_BITS = {"int8": 8, "int4": 4}


def export_student(checkpoint: Path, folder: Path, weights: str = "int8") -> None:
    """Export a saved checkpoint, offline and in this process.

    Args:
        checkpoint: a Hugging Face causal LM with its tokenizer (``tokenizer.json``).
        folder: receives model, tokenizer and detokenizer.
        weights: "int8", "int4" or "fp16".

    Raises:
        ValueError: the tokenizer is not a fast one.
        RuntimeError: the model cannot be exported; the message ends with the exporter's message.
    """
    with _quiet():
        # The import takes seconds and is needed for exports only.
        from openvino_tokenizers import convert_tokenizer
        from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        if not tokenizer.is_fast:
            raise ValueError(
                f"{checkpoint}: expected a fast tokenizer (tokenizer.json), got {type(tokenizer).__name__}"
            )
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress bars and notices of the exporters, unless they fail."""
    said = io.StringIO()
    bars = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    disabled = logging.root.manager.disable
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ValueError:
        raise
    except Exception as error:
        raise RuntimeError(f"export failed: {type(error).__name__}: {error}; {said.getvalue()[-500:]}") from error
    finally:
        logging.disable(disabled)
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
