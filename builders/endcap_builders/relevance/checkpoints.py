"""Hugging Face checkpoints of sequence classifiers: encoders, and language models with LoRA."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from endcap_builders.pretrained.checkpoints import check_tokenizer
from endcap_builders.relevance.pairs import RelevanceError

HEADS = ("classifier", "score")
"""Names of the last layer in transformers' sequence classifiers."""


def load_model(checkpoint: str, *, labels: int, layers: int = 0, fused: bool = False) -> tuple[Any, Any]:
    """A sequence classifier and its tokenizer from a Hugging Face checkpoint.

    Args:
        checkpoint: folder or hub name, see `checkpoint_of`. Encoders and language models alike.
        labels: outputs of the classification head; a head of another size is initialised randomly.
        layers: number of transformer layers to keep, from the bottom; 0: all.
        fused: use fused attention on a CPU, too, if the model has it; training is faster without.

    Raises:
        RelevanceError: the checkpoint cannot be loaded, has fewer layers, or no padding token.
        ModelError: its tokenizer does not fit it.
    """
    try:
        model, tokenizer = _load(checkpoint, labels, layers, fused)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        # transformers fails in any of these ways if configuration, tokenizer and weights are of different models.
        raise RelevanceError(f"checkpoint {checkpoint}: expected a Hugging Face checkpoint, got: {error}") from error
    check_tokenizer(checkpoint, tokenizer, model.get_input_embeddings().num_embeddings)
    return model, tokenizer


def _load(checkpoint: str, labels: int, layers: int, fused: bool) -> tuple[Any, Any]:
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
            # A language model's classifier reads the last token that is no padding, so it needs the padding token.
            config.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        if config.pad_token_id is None:
            raise RelevanceError(
                f"checkpoint {checkpoint}: expected a padding token or an end token, got neither; name one in "
                'tokenizer_config.json, e.g. "pad_token": "<pad>"'
            )
        # In bf16 on a CPU, the backward pass of fused attention takes four times as long as that of plain attention.
        model = AutoModelForSequenceClassification.from_pretrained(
            checkpoint,
            config=config,
            attn_implementation=None if fused or torch.cuda.is_available() else "eager",
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )
        return model, tokenizer


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress messages of transformers about shards and new heads."""
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
    """Write checkpoint and tokenizer without messages."""
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def with_lora(model: Any, rank: int) -> Any:
    """The model with low-rank adapters in every linear layer. Adapters and head are trained, the rest is frozen.

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
    """The model with its adapters merged into its weights; a model without adapters is returned unchanged."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def freeze_embeddings(model: Any) -> None:
    """Freeze the token embeddings: half of a small encoder's weights, and few of them get a gradient."""
    model.get_input_embeddings().weight.requires_grad_(False)
