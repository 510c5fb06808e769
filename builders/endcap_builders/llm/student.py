"""The student model: a small Llama from scratch, or any checkpoint (full training or LoRA)."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from endcap_builders.llm.examples import Example, OrderExample
from endcap_builders.llm.settings import StudentSettings
from endcap_builders.llm.tokenizer import load_tokenizer, train_tokenizer
from endcap_builders.pretrained.checkpoints import checkpoint_of


def make_student(
    settings: StudentSettings, examples: Sequence[Example | OrderExample], tokens: Sequence[str] = ()
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load the checkpoint, or make a Llama and its tokenizer from scratch.

    Args:
        settings: shape, or checkpoint.
        examples: texts from which a new tokenizer learns.
        tokens: texts that are one token each; a checkpoint that does not know them gets them.

    Raises:
        ModelError: there is no such checkpoint.
        ValueError: it does not hold a causal LM with a fast tokenizer and an end token.
    """
    if settings.checkpoint:
        source = checkpoint_of("checkpoint of a student LLM", settings.checkpoint)
        try:
            with no_progress_bars():
                tokenizer = load_tokenizer(source)
                model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        except OSError as error:
            raise ValueError(f"checkpoint {source}: expected a causal language model, got: {error}") from error
        tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
        if len(tokenizer) > int(model.config.vocab_size):
            model.resize_token_embeddings(len(tokenizer))
        if not (settings.lora and settings.train_tokens):
            return model, tokenizer
        return _with_lora(model, [tokenizer.get_vocab()[token] for token in tokens]), tokenizer
    texts = (text for example in examples for text in example.texts)
    tokenizer = train_tokenizer(texts, settings.vocabulary, tokens)
    # A dictionary, because the type checker does not know the decorators of the configuration classes.
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": settings.hidden,
        # 8/3 of the width, rounded to a multiple of 64 for fast matrix kernels.
        "intermediate_size": -(-settings.hidden * 8 // (3 * 64)) * 64,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.heads,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    fresh: Any = LlamaForCausalLM(LlamaConfig(**shape))
    with torch.no_grad():
        # Layers learn faster if their initial output is zero.
        for layer in fresh.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return fresh, tokenizer


def load_student(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load what `save_student` wrote."""
    with no_progress_bars():
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return model.eval(), load_tokenizer(folder)


def save_student(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save a plain Hugging Face checkpoint; LoRA weights are merged into it."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    with no_progress_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Suppress the progress bars of transformers, which would overwrite ours."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _with_lora(model: PreTrainedModel, tokens: Sequence[int]) -> Any:
    """Adapters for all matrices; the rows of `tokens` in the embedding are trained as they are."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=16,
        lora_alpha=32,
        lora_dropout=0.0,
        target_modules="all-linear",
        trainable_token_indices=list(tokens) or None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)
