"""What the LLM engines share, whatever decodes: requests with a deadline in, answers by callback out."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from tokenizers import Tokenizer

from endcap_server.declared.model import GpuProfile, Implementation, ModelDeclaration, tensor
from endcap_server.declared.parameters import ModelParameters
from endcap_server.engines.encoder_runtime import precision_field

Finish = Literal["stop", "length", "cancelled"]

_EXPORTED = tuple(
    f"openvino_{part}.{kind}" for part in ("model", "tokenizer", "detokenizer") for kind in ("xml", "bin")
)
IMPLEMENTATIONS = {
    "openvino_genai": Implementation("cpu", (*_EXPORTED, "tokenizer.json", "config.json")),
    "tensorrt_llm": Implementation("gpu", ("trtllm/config.json", "trtllm/tokenizer.json")),
}
_PRECISION = "of what is not 8-bit, on the CPU; auto: bf16 where the CPU computes with it"


class LlmParameters(ModelParameters):
    """Parameters of `theme_llm/config.pbtxt` and `keyword_llm/config.pbtxt`."""

    implementation: Literal["openvino_genai", "tensorrt_llm"] = Field("openvino_genai", description="what decodes")
    threads: int = Field(2, ge=1, le=1024, description="CPU threads of a decoding step")
    precision: str = precision_field("f32", _PRECISION)
    cache_mb: int = Field(64, ge=1, le=65536, description="memory for keys and values, MB (2**20 bytes)")
    max_sequences: int = Field(32, ge=1, le=1024, description="sequences decoded together")
    max_waiting: int = Field(256, ge=1, description="prompts that may wait; more are refused at once")


class KeywordLlmParameters(LlmParameters):
    """Those of `keyword_llm`: its time goes into reading long prompts, where bf16 pays, and not into writing."""

    precision: str = precision_field("auto", _PRECISION)


LLM_PARAMETERS: dict[str, type[LlmParameters]] = {"theme_llm": LlmParameters, "keyword_llm": KeywordLlmParameters}
"""By model name."""


def _declare(name: str, summary: str) -> ModelDeclaration:
    """An engine that runs the student of the build step of the same name."""
    return ModelDeclaration(
        name=name,
        summary=summary,
        inputs=(tensor("PROMPT", "STRING", -1), tensor("GRAMMAR", "STRING", -1), tensor("MAX_TOKENS", "INT32", 1)),
        outputs=(tensor("TEXT", "STRING", -1), tensor("FINISH", "STRING", -1)),
        parameters=LLM_PARAMETERS[name],
        files=lambda settings: tuple(f"{name}/{file}" for file in IMPLEMENTATIONS[settings.implementation].files),
        devices={"implementation": {each: found.device for each, found in IMPLEMENTATIONS.items()}},
        gpu=GpuProfile(
            "TensorRT-LLM on one GPU",
            {"implementation": "tensorrt_llm", "cache_mb": 2048, "max_sequences": 128, "max_waiting": 1024},
        ),
        uncacheable="prompts that a deadline cut short come back empty, and the deadline is no part of the cache key",
    )


THEME_LLM = _declare("theme_llm", "Engine: LLM 1, in-flight batching, a grammar per request.")
KEYWORD_LLM = _declare("keyword_llm", "Engine: LLM 2, in-flight batching, a grammar per request.")


class LlmError(RuntimeError):
    """The engine cannot answer; the message says why."""


class AbandonedError(TimeoutError):
    """The deadline passed, or the caller left, before a single token was written."""


@dataclass(frozen=True)
class Answer:
    """What an LLM wrote: ``stop`` complete, ``length`` cut by max_tokens, ``cancelled`` cut by the deadline."""

    text: str
    finish: Finish


OnDone = Callable[[Answer | Exception], None]
GONE = "nobody waits for the answer any more"


@dataclass(eq=False)
class LlmRequest:
    """One prompt in flight; the fields are the arguments of ``LlmEngine.submit``."""

    prompt: str
    grammar: str
    max_tokens: int
    deadline_ns: int
    on_done: OnDone
    abandoned: Callable[[], bool]

    @property
    def too_late(self) -> bool:
        """Whether the deadline has passed or the caller has gone."""
        return time.monotonic_ns() > self.deadline_ns or self.abandoned()


class LlmEngine(ABC):
    """Answers prompts by greedy decoding under grammars, batching all requests in flight."""

    max_length: int
    """Most tokens of a prompt and its answer together."""
    _max_waiting: int
    _tokenizer: Tokenizer

    @abstractmethod
    def submit(
        self,
        prompt: str,
        grammar: str,
        max_tokens: int,
        deadline_ns: int,
        on_done: OnDone,
        abandoned: Callable[[], bool] = lambda: False,
    ) -> None:
        """Queue a prompt; `on_done` is called once, from the engine's thread, and must return quickly.

        Args:
            prompt: as the student was trained on (`endcap_server.shop.prompts`).
            grammar: EBNF with the start rule ``root``; "" for free text.
            max_tokens: most tokens to write.
            deadline_ns: on the clock of ``time.monotonic_ns``; what is written until then is the answer.
            on_done: receives the answer, or an LlmError (the request is wrong, the engine is closed or full) or
                AbandonedError.
            abandoned: asked between steps; true stops the request, as a caller who has gone does.
        """

    @abstractmethod
    def close(self) -> None:
        """Answer what is in flight with an error and stop."""

    def count_tokens(self, text: str) -> int:
        """Tokens of a text."""
        return len(self._tokenizer.encode(text).ids)

    def _prompt_tokens(self, request: LlmRequest, limit: int) -> list[int]:
        """The tokens of a prompt; raises LlmError where they and the answer are more than ``limit``, or none."""
        ids: list[int] = self._tokenizer.encode(request.prompt).ids
        if not ids or request.max_tokens < 1 or len(ids) + request.max_tokens > limit:
            raise LlmError(
                f"prompt and answer: expected 1..{limit} tokens together, "
                f"got {len(ids)} and max_tokens {request.max_tokens}"
            )
        return ids

    def generate(
        self, prompts: Sequence[str], grammars: Sequence[str], max_tokens: int, timeout_s: float = 60.0
    ) -> list[Answer]:
        """Answer several prompts in one batch and wait for them; for builders, benchmarks and tests.

        Raises:
            LlmError: a prompt or grammar is wrong, or the engine is closed.
        """
        results: list[Answer | Exception | None] = [None] * len(prompts)
        done = threading.Semaphore(0)

        def receive(index: int) -> OnDone:
            def on_done(result: Answer | Exception) -> None:
                results[index] = result
                done.release()

            return on_done

        deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
        window = max(1, self._max_waiting // 2)
        for index, (prompt, grammar) in enumerate(zip(prompts, grammars, strict=True)):
            if index >= window:
                done.acquire()
            self.submit(prompt, grammar, max_tokens, deadline_ns, receive(index))
        for _ in range(min(window, len(prompts))):
            done.acquire()
        answers = []
        for result in results:
            if isinstance(result, Exception):
                raise result
            assert result is not None
            answers.append(result)
        return answers


def open_llm(folder: Path, settings: LlmParameters) -> LlmEngine:
    """Load the student that a build step wrote to ``folder``; only the chosen implementation is imported."""
    limits = settings.model_dump(include={"cache_mb", "max_sequences", "max_waiting"})
    if settings.implementation == "tensorrt_llm":
        from endcap_server.engines.trtllm import TrtLlm

        return TrtLlm(folder / "trtllm", **limits)
    from endcap_server.engines.llm import Llm

    return Llm(folder, threads=settings.threads, precision=settings.precision, **limits)


def bytes_per_token(config: dict[str, Any]) -> int:
    """Bytes of keys and values of one token, two a number, from a checkpoint's ``config.json``."""
    heads = int(config.get("num_key_value_heads") or config["num_attention_heads"])
    size = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    return 2 * 2 * int(config["num_hidden_layers"]) * heads * size
