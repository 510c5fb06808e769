"""The bi-encoder: texts to unit vectors, on the CPU with OpenVINO and the ``tokenizers`` library only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from tokenizers import Tokenizer

from endcap_server.engines.encoder_runtime import Encoder, EngineLoadError, RuntimeOptions
from endcap_server.engines.encoders import open_encoder
from endcap_server.engines.packed_runtime import PackedTexts
from endcap_server.shop.columns import Array

DEFAULT_OPTIONS = RuntimeOptions()


class BiEncoderConfig(BaseModel):
    """``encoder.json`` of a build's ``bi_encoder`` folder."""

    model_config = ConfigDict(frozen=True)

    dimension: int
    max_tokens: int
    """Longest text in tokens, special tokens included; the rest is cut off."""
    query_prompt: str = ""
    """Prefix of every query (checkpoints such as E5 were trained with one)."""
    document_prompt: str = ""
    """Prefix of every text of a product."""
    pooling: Literal["", "mean", "cls"] = ""
    """What a vector is made of, for `implementation` packed; "": the checkpoint cannot run there."""


class BiEncoder:
    """Encodes texts. Not re-entrant: one thread calls ``encode``."""

    def __init__(self, folder: Path, options: RuntimeOptions = DEFAULT_OPTIONS) -> None:
        """Load model, ``tokenizer.json`` and ``encoder.json`` from ``folder``, a build's ``bi_encoder``."""
        self.config = _read_config(folder / "encoder.json")
        self.tokenizer = load_tokenizer(folder / "tokenizer.json")
        self.tokenizer.enable_truncation(self.config.max_tokens)
        self._runtime = self._open(folder, options)
        self.dimension = self.config.dimension
        self.precision = self._runtime.options.precision

    def _open(self, folder: Path, options: RuntimeOptions) -> Encoder:
        if options.implementation == "packed":
            return PackedTexts(folder, options, self.config.pooling)
        return open_encoder(folder, options)

    def encode(self, texts: Sequence[str], kind: Literal["query", "document"] = "query") -> Array:
        """Return the vectors of ``texts``, float32 [len(texts), D] of unit length.

        ``kind`` says whether the texts are queries or products; it matters only for checkpoints with prefixes.
        """
        if not len(texts):
            return np.zeros((0, self.dimension), np.float32)
        prompt = self.config.query_prompt if kind == "query" else self.config.document_prompt
        tokens = [np.array(e.ids) for e in self.tokenizer.encode_batch_fast([prompt + text for text in texts])]

        def fill(rows: Array, ids: Array, _types: Array) -> None:
            for line, row in enumerate(rows):
                ids[line, : len(tokens[row])] = tokens[row]

        vectors, _ = self._runtime.run(np.array([len(ids) for ids in tokens]), fill)
        # With bf16, lengths are 1 +- 0.004. Similarities are inner products, so normalise.
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a ``tokenizer.json``, without its settings of padding and truncation."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception
        raise EngineLoadError(f"{path}: expected a tokenizer.json, got {error}; run endcap build") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _read_config(path: Path) -> BiEncoderConfig:
    try:
        return BiEncoderConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineLoadError(f"{path}: expected a built bi-encoder, found none; run endcap build") from None
    except ValidationError as error:
        raise EngineLoadError(f"{path}: {error.errors()[0]['msg']}; run endcap build bi_encoder") from None
