"""The interface of the LLM engines: requests with a deadline, answers by callback."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer

from endcap_server.declared.errors import InvalidRequest
from endcap_server.declared.tensors import Tensors, bytes_tensor, texts_of

Finish = Literal["stop", "length", "cancelled"]


class LlmError(RuntimeError):
    """The engine cannot answer; the message says why."""


class AbandonedError(TimeoutError):
    """The deadline passed, or the caller left, before the first token was written."""


@dataclass(frozen=True)
class Completion:
    """Text of an LLM; it is complete (``stop``), or cut by max_tokens (``length``) or the deadline (``cancelled``)."""

    text: str
    finish: Finish


OnDone = Callable[[Completion | Exception], None]
GONE = "nobody waits for the answer any more"


@dataclass(eq=False)
class LlmRequest:
    """One prompt in flight.

    Attributes:
        prompt: as the student was trained on (`endcap_server.shop.prompts`).
        grammar: EBNF with the start rule ``root``; "" for free text.
        max_tokens: most tokens to write.
        deadline_ns: on the clock of ``time.monotonic_ns``; what is written until then is the answer.
        on_done: called once, from the engine's thread, and has to return quickly: with the answer, or an LlmError (the
            request is wrong, the engine is closed or full) or AbandonedError.
        abandoned: called between steps; true stops the request, because the caller has gone.
    """

    prompt: str
    grammar: str
    max_tokens: int
    deadline_ns: int
    on_done: OnDone
    abandoned: Callable[[], bool] = lambda: False

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
    def submit(self, request: LlmRequest) -> None:
        """Queue a prompt."""

    @abstractmethod
    def close(self) -> None:
        """Answer what is in flight with an error and stop."""

    def count_tokens(self, text: str) -> int:
        """Tokens of a text."""
        return len(self._tokenizer.encode(text).ids)

    def _prompt_tokens(self, request: LlmRequest, limit: int) -> list[int]:
        """The tokens of a prompt; raises LlmError if there are none, or if prompt and answer exceed ``limit``."""
        ids: list[int] = self._tokenizer.encode(request.prompt).ids
        if not ids or request.max_tokens < 1 or len(ids) + request.max_tokens > limit:
            raise LlmError(
                f"prompt and answer: expected 1..{limit} tokens together, "
                f"got {len(ids)} and max_tokens {request.max_tokens}"
            )
        return ids

    def generate(
        self, prompts: Sequence[str], grammars: Sequence[str], max_tokens: int, timeout_s: float = 60.0
    ) -> list[Completion]:
        """Answer several prompts in one batch and wait for them; for builders, benchmarks and tests.

        Raises:
            LlmError: a prompt or grammar is wrong, or the engine is closed.
        """
        results: list[Completion | Exception | None] = [None] * len(prompts)
        done = threading.Semaphore(0)

        def receive(index: int) -> OnDone:
            def on_done(result: Completion | Exception) -> None:
                results[index] = result
                done.release()

            return on_done

        deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
        window = max(1, self._max_waiting // 2)
        for index, (prompt, grammar) in enumerate(zip(prompts, grammars, strict=True)):
            if index >= window:
                done.acquire()
            self.submit(LlmRequest(prompt, grammar, max_tokens, deadline_ns, receive(index)))
        for _ in range(min(window, len(prompts))):
            done.acquire()
        answers = []
        for result in results:
            if isinstance(result, Exception):
                raise result
            assert result is not None
            answers.append(result)
        return answers


def bytes_per_token(config: dict[str, Any]) -> int:
    """Bytes of keys and values of one token (two bytes per number), from a checkpoint's ``config.json``."""
    heads = int(config.get("num_key_value_heads") or config["num_attention_heads"])
    size = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    return 2 * 2 * int(config["num_hidden_layers"]) * heads * size


def read_prompts(tensors: Tensors) -> tuple[list[str], list[str], int]:
    """(prompts, grammars, max_tokens) of the engine's inputs.

    Raises:
        InvalidRequest: Names the tensor.
    """
    prompts, grammars = texts_of(tensors["PROMPT"]), texts_of(tensors["GRAMMAR"])
    if not prompts or len(prompts) != len(grammars):
        raise InvalidRequest("GRAMMAR", f"one for each of the {len(prompts)} prompts", str(len(grammars)))
    max_tokens = int(tensors["MAX_TOKENS"][0])
    if max_tokens < 1:
        raise InvalidRequest("MAX_TOKENS", "at least 1", str(max_tokens))
    return prompts, grammars, max_tokens


def answer_of(answers: Sequence[Completion | Exception | None]) -> Tensors | Exception:
    """The engine's outputs for the answers of a request's prompts, or the error of the whole.

    The answer of a late prompt is empty and "cancelled", so that the other answers are not lost.
    """
    texts, finishes = [], []
    for answer in answers:
        if isinstance(answer, Completion):
            texts.append(answer.text)
            finishes.append(answer.finish)
        elif isinstance(answer, AbandonedError):
            texts.append("")
            finishes.append("cancelled")
        else:
            return answer if isinstance(answer, Exception) else RuntimeError("the engine gave no answer")
    if all(finish == "cancelled" for finish in finishes):
        return TimeoutError("the deadline passed before the answer was written")
    return {"TEXT": bytes_tensor(texts), "FINISH": bytes_tensor(finishes)}
