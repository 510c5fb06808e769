"""Export of Hugging Face encoders to OpenVINO IR with dynamic batch and length.

The model goes through ``torch.export``: tracing to TorchScript fails in the mask code of transformers 5, and
its ONNX path writes assumptions about the mask into the graph.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from endcap_server.shop.prompts import CANDIDATE_TOKENS
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

BERT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Inputs of a BERT; models without token types (MPNet, XLM-R) have the first two."""

_EXAMPLE_SHAPE = (3, 11)
_LONGEST = 8192


class CrossEncoderScores(nn.Module):
    """A sequence classifier with one label, from token ids to its logit [batch, 1]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return the logits, float [batch, 1]."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **types).logits


class SentenceVectors(nn.Module):
    """All modules of a sentence-transformers checkpoint (encoder, pooling, normalisation), from ids to vectors."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return the vectors, float [batch, D]."""
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            features["token_type_ids"] = token_type_ids
        for module in self.model:
            features = module(features)
        return features["sentence_embedding"]


class CandidateLogits(nn.Module):
    """LLM 2: the logits of the candidates' tokens after each prompt, [batch, candidates]."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        tokens = tokenizer.convert_tokens_to_ids(list(CANDIDATE_TOKENS))
        self.last = _Place()
        self.decoder = copy.deepcopy(model.get_decoder())
        # Of the last layer, the other tokens' outputs are not needed. They get what the residual adds to the last one.
        layer = self.decoder.layers[-1]
        layer.mlp, layer.self_attn.o_proj = (_OfLast(part, self.last) for part in (layer.mlp, layer.self_attn.o_proj))
        self.head = nn.Parameter(model.get_output_embeddings().weight[tokens].detach().clone())

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits, float [batch, candidates]; padding is on the right."""
        self.last.index = (attention_mask.sum(dim=1) - 1)[:, None, None]
        hidden = self.decoder(input_ids=input_ids, use_cache=False).last_hidden_state
        return self.last.of(hidden).squeeze(1) @ self.head.T


class _Place:
    """The last token of each sequence of a batch."""

    index: Tensor  # int64 [batch, 1, 1]

    def of(self, values: Tensor) -> Tensor:
        """The last token's of values [batch, length, width]: [batch, 1, width]; the same if there is only that one."""
        return values.gather(1, self.index.expand(-1, 1, values.shape[-1]))


class _OfLast(nn.Module):
    """A part of a layer, computed for the last token only: [batch, 1, width], which broadcasts where it is added."""

    def __init__(self, part: nn.Module, last: _Place) -> None:
        super().__init__()
        self.part, self.last = part, last

    def forward(self, values: Tensor) -> Tensor:
        return self.part(self.last.of(values))


def export_candidate_logits(model: Any, tokenizer: PreTrainedTokenizerFast, path: Path, weights: str = "int8") -> None:
    """Write a causal LM that orders candidates as OpenVINO IR ``path``; `weights` are "int8", "int4" or "fp16".

    With 8-bit weights, OpenVINO quantises activations too, which is several times faster on CPUs with VNNI.

    Inputs ``input_ids``, ``attention_mask`` int64 [batch, length]; output ``logits`` float [batch, candidates].
    """
    _export(CandidateLogits(model, tokenizer), ("input_ids", "attention_mask"), "logits", path, weights)


def export_cross_encoder(model: nn.Module, path: Path, inputs: tuple[str, ...] = BERT_INPUTS) -> None:
    """Write a BERT-like sequence classifier with one label as OpenVINO IR ``path`` (``.xml``, and ``.bin`` beside it).

    ``inputs`` are the names the checkpoint's tokenizer gives, int64 [batch, length]; output ``logits`` float
    [batch, 1].
    """
    _export(CrossEncoderScores(model), inputs, "logits", path)


def export_sentence_encoder(model: nn.Sequential, inputs: tuple[str, ...], path: Path) -> None:
    """Write a SentenceTransformer with its pooling as OpenVINO IR ``path``; output ``vectors`` float [batch, D].

    ``inputs`` are the names the checkpoint's tokenizer gives: input_ids, attention_mask and perhaps token_type_ids.
    """
    _export(SentenceVectors(model), inputs, "vectors", path)


def encoder_program(module: nn.Module, inputs: tuple[str, ...]) -> torch.export.ExportedProgram:
    """Trace an encoder with a dynamic batch and length; ``inputs`` are all int64 [batch, length]."""
    example = {name: torch.ones(_EXAMPLE_SHAPE, dtype=torch.long) for name in inputs}
    if "token_type_ids" in example:
        example["token_type_ids"].zero_()
    example["attention_mask"][0, 5:] = 0
    batch, length = torch.export.Dim("batch", min=1, max=_LONGEST), torch.export.Dim.AUTO
    with torch.no_grad(), quiet():
        return torch.export.export(
            module.eval(), (), example, dynamic_shapes={name: {0: batch, 1: length} for name in inputs}, strict=False
        )


def _export(module: nn.Module, inputs: tuple[str, ...], output: str, path: Path, weights: str = "fp16") -> None:
    program = encoder_program(module.cpu().float(), inputs)
    with torch.no_grad(), quiet():
        converted = ov.convert_model(program)
    for port, name in zip(converted.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
    converted.outputs[0].get_tensor().set_names({output})
    if weights != "fp16":
        import nncf  # takes seconds

        mode = {"int8": nncf.CompressWeightsMode.INT8_ASYM, "int4": nncf.CompressWeightsMode.INT4_ASYM}[weights]
        with quiet():
            converted = nncf.compress_weights(converted, mode=mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(converted, path, compress_to_fp16=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress messages of loaders, exporter and converter."""
    level = logging.root.manager.disable
    bars = transformers_logging.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if bars:
            transformers_logging.enable_progress_bar()
