"""LLM 2: reads prompts with numbered candidates once; the logits of the numbers' tokens order the candidates.

Nothing is decoded (FIRST, arXiv 2406.15657), so that an answer is always valid: each candidate once. The prompts of all
waiting requests are sorted by length into micro-batches, as the encoders' sequences are.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from endcap_server.declared.errors import InvalidRequest
from endcap_server.declared.model import GpuProfile, ModelDeclaration, tensor
from endcap_server.declared.parameters import ModelParameters
from endcap_server.declared.tensors import Tensors
from endcap_server.engines.bi_encoder import load_tokenizer
from endcap_server.engines.encoder_runtime import EngineLoadError, RuntimeOptions
from endcap_server.engines.encoders import IMPLEMENTATIONS, open_encoder, precision_field
from endcap_server.shop.columns import Array
from endcap_server.shop.prompts import CANDIDATE_TOKENS

MAX_PROMPT_TOKENS = 2048
"""Longest prompt; 100 candidates of some ten tokens fit."""
DEFAULT_OPTIONS = RuntimeOptions()
_NEVER_NS = 2**63 - 1


class KeywordLlmParameters(ModelParameters):
    """Parameters of `keyword_llm/config.pbtxt`."""

    implementation: Literal["openvino", "tensorrt"] = Field("openvino", description="what runs the student")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: all")
    streams: int = Field(0, ge=0, le=64, description="micro-batches computed side by side; 0: one a thread, at most 8")
    precision: str = precision_field()
    token_budget: int = Field(
        RuntimeOptions.token_budget, ge=16, le=65536, description="tokens of a micro-batch; tensorrt counts padding"
    )
    max_batch_prompts: int = Field(64, ge=1, description="prompts of all requests that are read in one go")

    def runtime(self) -> RuntimeOptions:
        """How the student runs."""
        return RuntimeOptions(self.threads, self.streams, self.precision, self.token_budget, self.implementation)


KEYWORD_LLM = ModelDeclaration(
    name="keyword_llm",
    summary="Engine: LLM 2 reads a prompt once; the logits of its candidates' tokens order them.",
    inputs=(tensor("PROMPT", "STRING", -1), tensor("COUNT", "INT32", -1)),
    outputs=(tensor("ORDER", "INT32", -1, -1), tensor("LOGIT", "FP32", -1, -1)),
    parameters=KeywordLlmParameters,
    files=lambda settings: tuple(f"keyword_llm/{file}" for file in IMPLEMENTATIONS[settings.implementation].files),
    devices={"implementation": {name: each.device for name, each in IMPLEMENTATIONS.items()}},
    gpu=GpuProfile(
        "TensorRT on one GPU", {"implementation": "tensorrt", "token_budget": 16384, "max_batch_prompts": 256}
    ),
)


@dataclass(frozen=True, eq=False)
class KeywordLlmRequest:
    """Order the candidates of each prompt."""

    prompts: Sequence[Array]  # T prompts, token ids int64 [length]
    counts: Array  # int32 [T], candidates of each, 1..100
    deadline_ns: int = _NEVER_NS  # on the clock of time.monotonic_ns


@dataclass(frozen=True, eq=False)
class KeywordLlmResult:
    """The candidates of each prompt; M is the most of a prompt."""

    order: Array  # int32 [T, M], candidates from 0, the best first, of equal ones the earlier; -1 padded
    logits: Array  # float32 [T, M], of each candidate in the prompt's order; 0 padded

    @property
    def tensors(self) -> Tensors:
        """The engine's outputs."""
        return {"ORDER": self.order, "LOGIT": self.logits}


class KeywordLlm:
    """Orders candidates. Not re-entrant: one thread calls ``run``."""

    def __init__(self, folder: Path, options: RuntimeOptions = DEFAULT_OPTIONS) -> None:
        """Load model and ``tokenizer.json`` from ``folder``, a build's ``keyword_llm``."""
        self._tokenizer = load_tokenizer(folder / "tokenizer.json")
        if any(self._tokenizer.token_to_id(token) is None for token in CANDIDATE_TOKENS):
            raise EngineLoadError(
                f"{folder / 'tokenizer.json'}: expected a token for each of {len(CANDIDATE_TOKENS)} candidates, found "
                "not all; run endcap build keyword_llm"
            )
        self._runtime = open_encoder(folder, options)
        if self._runtime.outputs != len(CANDIDATE_TOKENS):
            raise EngineLoadError(
                f"{folder}: expected a logit for each of {len(CANDIDATE_TOKENS)} candidates, got "
                f"{self._runtime.outputs}; run endcap build keyword_llm"
            )

    def request(self, prompts: Sequence[str], counts: Array, deadline_ns: int = _NEVER_NS) -> KeywordLlmRequest:
        """Check and tokenise prompts (as `endcap_server.shop.prompts.keyword_prompt` writes them).

        Args:
            prompts: T texts, at least one.
            counts: candidates of each, int [T].
            deadline_ns: on the clock of time.monotonic_ns.

        Raises:
            InvalidRequest: names the tensor.
        """
        if not prompts or counts.shape != (len(prompts),):
            raise InvalidRequest("COUNT", f"one for each of {len(prompts)} prompts, at least one", f"{counts.shape}")
        if not 1 <= int(counts.min()) <= int(counts.max()) <= len(CANDIDATE_TOKENS):
            wrong = counts[(counts < 1) | (counts > len(CANDIDATE_TOKENS))][0]
            raise InvalidRequest("COUNT", f"1..{len(CANDIDATE_TOKENS)} candidates", str(wrong))
        tokens = [np.array(encoding.ids, np.int64) for encoding in self._tokenizer.encode_batch_fast(list(prompts))]
        for ids in tokens:
            if not 1 <= len(ids) <= MAX_PROMPT_TOKENS:
                raise InvalidRequest("PROMPT", f"1..{MAX_PROMPT_TOKENS} tokens", str(len(ids)))
        return KeywordLlmRequest(tokens, counts.astype(np.int32), deadline_ns)

    def run(self, requests: Sequence[KeywordLlmRequest]) -> list[KeywordLlmResult | Exception]:
        """Answer several requests at once, in order; TimeoutError for one whose deadline passed before it was done."""
        prompts = [prompt for request in requests for prompt in request.prompts]
        owner = np.repeat(np.arange(len(requests)), [len(request.prompts) for request in requests])
        deadlines = np.array([request.deadline_ns for request in requests], np.int64)

        def fill(rows: Array, ids: Array, _types: Array) -> None:
            for line, row in enumerate(rows):
                ids[line, : len(prompts[row])] = prompts[row]

        def alive() -> Array:
            return (deadlines >= time.monotonic_ns())[owner]

        logits, done = self._runtime.run(np.array([len(prompt) for prompt in prompts]), fill, alive)
        return [
            _ordered(request.counts, logits[owner == number])
            if done[owner == number].all()
            else TimeoutError("the deadline passed before all prompts were read")
            for number, request in enumerate(requests)
        ]


def _ordered(counts: Array, logits: Array) -> KeywordLlmResult:
    """The orders by logits float32 [T, 100], of which each prompt has its own number."""
    logits = logits[:, : int(counts.max())]
    given = np.arange(logits.shape[1]) < counts[:, None]
    order = np.argsort(np.where(given, -logits, np.inf), axis=1, kind="stable").astype(np.int32)
    return KeywordLlmResult(np.where(given, order, -1).astype(np.int32), np.where(given, logits, 0).astype(np.float32))
