"""The `theme_llm` engine as a Triton model: prompts of all requests are batched in flight."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from endcap_server.declared.tensors import Tensors
from endcap_server.engines.llm_engine import Completion, LlmEngine, LlmRequest, answer_of, read_prompts
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
        return read_prompts(tensors)

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
        self._job.send(answer_of(self._answers))
