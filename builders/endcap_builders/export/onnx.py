"""Export of encoders to ONNX in half precision, for strongly typed TensorRT networks.

Only the transformer runs in half precision. Pooling, normalisation and the score are in float32, so that sums over many
tokens are accurate.
"""

import copy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from endcap_builders.export.encoder import (
    BERT_INPUTS,
    CandidateLogits,
    CrossEncoderScores,
    SentenceVectors,
    encoder_program,
    quiet,
)

Precision = Literal["fp16", "bf16"]
_DTYPES: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
_OPSET = 18


class _FloatOutput(nn.Module):
    """A model's output in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        types = () if token_type_ids is None else (token_type_ids,)
        return self.model(input_ids, attention_mask, *types).float()


class _FloatTokens(nn.Module):
    """The transformer of a sentence-transformers checkpoint, its token vectors in float32."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        features = self.transformer(features)
        return {**features, "token_embeddings": features["token_embeddings"].float()}


def export_cross_encoder_onnx(
    model: nn.Module, path: Path, precision: Precision = "fp16", inputs: tuple[str, ...] = BERT_INPUTS
) -> tuple[str, ...]:
    """Write a BERT-like sequence classifier with one label; `model` is not changed.

    ``inputs`` are the names the checkpoint's tokenizer gives, all int64 [batch, length], and are returned; output
    ``logits`` float32 [batch, 1].
    """
    half = copy.deepcopy(model).cpu().to(_DTYPES[precision])
    _write(_FloatOutput(CrossEncoderScores(half)), inputs, "logits", path)
    return inputs


def export_sentence_encoder_onnx(
    model: nn.Sequential, inputs: tuple[str, ...], path: Path, precision: Precision = "fp16"
) -> tuple[str, ...]:
    """Write a SentenceTransformer with its pooling; `model` is not changed.

    ``inputs`` are the names the checkpoint's tokenizer gives, all int64 [batch, length], and are returned; output
    ``vectors`` float32 [batch, D].
    """
    modules = [copy.deepcopy(module).cpu().float() for module in model]
    modules[0] = _FloatTokens(modules[0].to(_DTYPES[precision]))
    _write(SentenceVectors(nn.Sequential(*modules)), inputs, "vectors", path)
    return inputs


def export_candidate_logits_onnx(
    model: Any, tokenizer: PreTrainedTokenizerFast, path: Path, precision: Precision = "bf16"
) -> tuple[str, ...]:
    """Write a causal LM that orders candidates; `model` is not changed.

    Output ``logits`` float32 [batch, candidates]. Returns the names of the inputs, all int64 [batch, length].
    """
    inputs = ("input_ids", "attention_mask")
    half = copy.deepcopy(model).cpu().to(_DTYPES[precision])
    _write(_FloatOutput(CandidateLogits(half, tokenizer)), inputs, "logits", path)
    return inputs


def _write(module: nn.Module, inputs: tuple[str, ...], output: str, path: Path) -> None:
    program = encoder_program(module, inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet():
        torch.onnx.export(
            program,
            (),
            str(path),
            dynamo=True,
            input_names=list(inputs),
            output_names=[output],
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
        )
