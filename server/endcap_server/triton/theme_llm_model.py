"""The `theme_llm` engine as a Triton model: prompts of all requests are batched in flight."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from endcap_server.declared.errors import InvalidRequest
from endcap_server.declared.tensors import Tensors, bytes_tensor, texts_of
from endcap_server.engines.llm_engine import AbandonedError, Completion, LlmEngine, LlmRequest
from endcap_server.engines.llm_models import THEME_LLM, LlmParameters, open_llm
from endcap_server.triton.engine_model import EngineModel, Job


class TritonPythonModel(EngineModel):
    """PROMPT [n], GRAMMAR [n], MAX_TOKENS [1] -> TEXT [n], FINISH [n]."""

    declaration = THEME_LLM

    def open(self, build: Path, settings: LlmParameters) -> LlmEngine:
        """Load and return the engine."""
        return open_llm(build / self.name, settings)

    def read(self, tensors: Tensors, deadline_ns: int) -> tuple[list[str], list[str], int]:
        """(prompts, grammars, max_tokens); raises InvalidRequest."""
        prompts, grammars = texts_of(tensors["PROMPT"]), texts_of(tensors["GRAMMAR"])
        if not prompts or len(prompts) != len(grammars):
            raise InvalidRequest("GRAMMAR", f"one for each of the {len(prompts)} prompts", str(len(grammars)))
        max_tokens = int(tensors["MAX_TOKENS"][0])
        if max_tokens < 1:
            raise InvalidRequest("MAX_TOKENS", "at least 1", str(max_tokens))
        return prompts, grammars, max_tokens

    def take(self, job: Job) -> None:
        """Submit every prompt of the request; the last answer completes it."""
        prompts, grammars, max_tokens = job.work
        self.metrics.batch(self.metrics.in_flight, [])
        gather, left = _Gather(job, len(prompts)), _rarely(job.sender.is_cancelled)
        for index, (prompt, grammar) in enumerate(zip(prompts, grammars, strict=True)):
            put = partial(gather.put, index)
            self.engine.submit(LlmRequest(prompt, grammar, max_tokens, job.deadline_ns, put, left))

    def close(self) -> None:
        """Stop decoding."""
        if self.installed:
            self.engine.close()


def _rarely(check: Callable[[], bool], every_ns: int = 100_000_000) -> Callable[[], bool]:
    """Call `check` at most every 0.1 s: it sends a message to the server, and the engine calls it between tokens."""
    asked_ns, answer = 0, False

    def ask() -> bool:
        nonlocal asked_ns, answer
        now_ns = time.monotonic_ns()
        if not answer and now_ns - asked_ns > every_ns:
            asked_ns, answer = now_ns, bool(check())
        return answer

    return ask


class _Gather:
    """Collects the answers of one request's prompts, in any order."""

    def __init__(self, job: Job, count: int) -> None:
        self._job, self._left = job, count
        self._answers: list[Completion | Exception | None] = [None] * count
        self._lock = threading.Lock()

    def put(self, index: int, result: Completion | Exception) -> None:
        with self._lock:
            self._answers[index] = result
            self._left -= 1
            if self._left:
                return
        self._job.send(self._result())

    def _result(self) -> Tensors | Exception:
        """The answer of a late prompt is empty and "cancelled", so that the other answers are not lost."""
        texts, finishes = [], []
        for answer in self._answers:
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
