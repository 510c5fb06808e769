"""Engines in this process, for stages that run outside a server: those that make themes and keywords."""

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from endcap_server.declared.errors import EngineError, EngineTimeout
from endcap_server.declared.model import ModelDeclaration
from endcap_server.declared.reasons import Cause
from endcap_server.declared.tensors import Tensors, texts_of
from endcap_server.engines.keyword_llm import KEYWORD_LLM, KeywordLlm, KeywordLlmRequest
from endcap_server.engines.llm_engine import Completion, LlmEngine, LlmRequest, answer_of, read_prompts
from endcap_server.engines.llm_models import THEME_LLM, open_llm
from endcap_server.engines.nearest import NEAREST, Nearest, NearestRequest
from endcap_server.shop.gates import is_installed

_Answer = Callable[[Tensors | Exception], None]
_Waiting = tuple[Tensors, int, _Answer]


class LocalEngines:
    """`nearest`, `theme_llm` and `keyword_llm` of a build; all waiting requests of an engine are one batch.

    Args:
        build: The build.
        parameters: Engine -> parameters of its configuration; defaults for those that are missing.
    """

    def __init__(self, build: Path, parameters: Mapping[str, Mapping[str, str]]) -> None:
        def settings_of(engine: ModelDeclaration) -> Any:
            return engine.parameters.from_strings(engine.name, parameters.get(engine.name, {}))

        settings = settings_of(NEAREST)
        nearest = Nearest(build, settings.runtime(), settings.faiss_device, settings.cache_texts, settings.boosts())
        self._batching = {NEAREST.name: _Batching(partial(_nearest, nearest), nearest.run)}
        if is_installed(build, KEYWORD_LLM.name):
            ordering = KeywordLlm(build / KEYWORD_LLM.name, settings_of(KEYWORD_LLM).runtime())
            self._batching[KEYWORD_LLM.name] = _Batching(partial(_ordering, ordering), ordering.run)
        self._llm = (
            open_llm(build / THEME_LLM.name, settings_of(THEME_LLM)) if is_installed(build, "theme_llm") else None
        )

    async def call(self, engine: str, inputs: Tensors, deadline_ns: int, outputs: tuple[str, ...]) -> Tensors:
        """Return the requested ``outputs`` of one request to ``engine``; see `endcap_server.stages.base.Engines`.

        Raises:
            EngineTimeout: The deadline passed first.
            EngineError: The engine is not of this build, or failed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Tensors | Exception] = loop.create_future()

        def answer(result: Tensors | Exception) -> None:
            loop.call_soon_threadsafe(future.set_result, result)

        if engine == THEME_LLM.name and self._llm is not None:
            _write(self._llm, inputs, deadline_ns, answer)
        elif engine in self._batching:
            self._batching[engine].put((inputs, deadline_ns, answer))
        else:
            raise EngineError(engine, "is not installed", Cause.UNAVAILABLE)
        result = await future
        if isinstance(result, TimeoutError):
            raise EngineTimeout(engine, str(result))
        if isinstance(result, Exception):
            raise EngineError(engine, f"{type(result).__name__}: {result}")
        return {name: result[name] for name in outputs}

    def close(self) -> None:
        """Stop the engines' threads."""
        for each in self._batching.values():
            each.close()
        if self._llm is not None:
            self._llm.close()


class _Batching:
    """A thread that answers all waiting requests of an engine in one run.

    Args:
        read: The engine's request of its inputs and a deadline.
        run: Answers several requests, in order.
    """

    def __init__(self, read: Callable[[Tensors, int], Any], run: Callable[[list[Any]], list[Any]]) -> None:
        self._read, self._run = read, run
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def put(self, request: _Waiting) -> None:
        """Queue a request."""
        self._queue.put(request)

    def close(self) -> None:
        """Stop the thread after what waits."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            waiting = [self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get())
            self._answer([each for each in waiting if each is not None])
            if None in waiting:
                return

    def _answer(self, waiting: list[_Waiting]) -> None:
        asked, answers = [], []
        for inputs, deadline_ns, answer in waiting:
            try:
                asked.append(self._read(inputs, deadline_ns))
                answers.append(answer)
            except Exception as error:
                answer(error)
        try:
            results = self._run(asked) if asked else []
        except Exception as error:
            results = [error] * len(asked)
        for answer, result in zip(answers, results, strict=True):
            answer(result if isinstance(result, Exception) else result.tensors)


def _nearest(engine: Nearest, tensors: Tensors, deadline_ns: int) -> NearestRequest:
    request = NearestRequest.read(tensors, deadline_ns)
    engine.check(request)
    return request


def _ordering(engine: KeywordLlm, tensors: Tensors, deadline_ns: int) -> KeywordLlmRequest:
    return engine.request(texts_of(tensors["PROMPT"]), tensors["COUNT"], deadline_ns)


def _write(engine: LlmEngine, tensors: Tensors, deadline_ns: int, answer: _Answer) -> None:
    prompts, grammars, max_tokens = read_prompts(tensors)
    answers: list[Completion | Exception | None] = [None] * len(prompts)

    def done(place: int, result: Completion | Exception) -> None:
        answers[place] = result
        if None not in answers:
            answer(answer_of(answers))

    for place, (prompt, grammar) in enumerate(zip(prompts, grammars, strict=True)):
        engine.submit(LlmRequest(prompt, grammar, max_tokens, deadline_ns, partial(done, place)))
