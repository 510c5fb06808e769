"""The student model: a small Llama from scratch, or any local checkpoint (full training or LoRA)."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from endcap_builders.llm.examples import Example
from endcap_builders.llm.tokenizer import load_tokenizer, train_tokenizer
from endcap_builders.step import Settings


class StudentSettings(Settings):
    """Shape, training and export of one student LLM."""

    checkpoint: str = Field(
        "", description="folder of a local Hugging Face causal LM to start from; empty: a small Llama made from scratch"
    )
    lora: bool = Field(True, description="train a given checkpoint with LoRA instead of all its weights")
    vocabulary: int = Field(4096, ge=300, le=65536, description="most tokens of a tokenizer made from scratch")
    hidden: int = Field(256, ge=32, le=4096, description="width of a model made from scratch")
    layers: int = Field(4, ge=1, le=64, description="layers of a model made from scratch")
    heads: int = Field(4, ge=1, le=64, description="attention heads of a model made from scratch")
    train_tokens: int = Field(
        500_000, ge=0, description="tokens to train on (about a minute on two cores); 0: use the checkpoint as it is"
    )
    train_seconds: float = Field(300.0, gt=0, description="most time for training, for machines that are slow or busy")
    tokens_per_step: int = Field(768, ge=256, description="tokens of one optimiser step")
    learning_rate: float = Field(
        0.0, ge=0, description="peak learning rate of AdamW; 0: what suits (from scratch 0.03, LoRA 2e-4, whole 3e-5)"
    )
    matrix_learning_rate: float = Field(0.02, gt=0, description="peak learning rate of Muon, for models from scratch")
    prompt_weight: float = Field(
        0.1, ge=0, le=1, description="weight of the prompt's tokens in the loss; answers have 1"
    )
    max_tokens: int = Field(1024, ge=64, description="longest example in tokens; longer ones are left out")
    held_out: int = Field(120, ge=1, description="examples kept aside to measure the student on")
    weights: str = Field("int8", pattern="^(int8|int4|fp16)$", description="weight format of the export")

    @property
    def peak_rate(self) -> float:
        """The peak learning rate of AdamW."""
        if self.learning_rate:
            return self.learning_rate
        return (2e-4 if self.lora else 3e-5) if self.checkpoint else 3e-2


def make_student(settings: StudentSettings, examples: list[Example]) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load the checkpoint, or make a Llama and its tokenizer from scratch.

    Raises:
        ValueError: the checkpoint folder does not hold a causal LM.
    """
    if settings.checkpoint:
        folder = Path(settings.checkpoint)
        if not (folder / "config.json").is_file():
            raise ValueError(f"checkpoint {folder}: expected a folder with config.json, got none")
        tokenizer = load_tokenizer(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        return _with_lora(model) if settings.lora and settings.train_tokens else model, tokenizer
    texts = (text for example in examples for text in (example.prompt, example.completion))
    tokenizer = train_tokenizer(texts, settings.vocabulary)
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


def _with_lora(model: PreTrainedModel) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)
