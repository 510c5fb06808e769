"""Structured answers of an LLM at any endpoint with the OpenAI chat API: retries, price, resumable.

Every answer is appended to a file with the hash of its request, so an interrupted run requests and pays only what is
missing.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from endcap_builders.step import BuildError, Settings

A = TypeVar("A", bound=BaseModel)
_REPORT_EVERY = 50


class OpenAISettings(Settings):
    """The endpoint and its prices."""

    model: str = Field("gpt-5-mini", description="model name")
    base_url: str = Field("", description="address of the API; empty: the library's default (or OPENAI_BASE_URL)")
    key_variable: str = Field("OPENAI_API_KEY", description="environment variable that holds the key")
    concurrency: int = Field(8, ge=1, le=128, description="requests at a time")
    retries: int = Field(6, ge=0, le=20, description="attempts after the first, with growing pauses")
    malformed_retries: int = Field(2, ge=0, le=5, description="new attempts after an answer that fits no schema")
    timeout_s: float = Field(60, gt=0, description="patience for one answer, seconds")
    input_price: float = Field(0.25, ge=0, description="price of a million prompt tokens")
    output_price: float = Field(2.0, ge=0, description="price of a million answer tokens")


class StructuredChat:
    """Requests answers of a form.

    Args:
        settings: endpoint, prices, patience.
        answers: file of the answers.
        log: takes progress.
        who: what the LLM is, for messages: "teacher".
        instead: what to do without a key.

    Raises:
        BuildError: there is no key.
    """

    def __init__(
        self, settings: OpenAISettings, answers: Path, log: Callable[[str], None], *, who: str, instead: str
    ) -> None:
        # Half a second, which only builds that use an endpoint should wait.
        from openai import OpenAI

        key = os.environ.get(settings.key_variable, "")
        if not key:
            raise BuildError(
                f"{who} openai: expected a key in the environment variable {settings.key_variable}, found none; "
                f"set it, or {instead}"
            )
        self.settings, self.log, self._who = settings, log, who
        self._client = OpenAI(
            api_key=key,
            base_url=settings.base_url or None,
            max_retries=settings.retries,
            timeout=settings.timeout_s,
        )
        self._path = answers
        self._answers = _read_answers(answers)
        self.resumed = len(self._answers)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.asked = self.malformed = self.input_tokens = self.output_tokens = 0

    @property
    def cost(self) -> float:
        """Cost of this run, in the currency of the prices."""
        return (
            self.input_tokens * self.settings.input_price + self.output_tokens * self.settings.output_price
        ) / 1_000_000

    def figures(self) -> dict[str, Any]:
        """The entry in a manifest or report."""
        return {
            f"{self._who}_model": self.settings.model,
            "asked": self.asked,
            "resumed": self.resumed,
            "malformed": self.malformed,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost": round(self.cost, 4),
        }

    def ask_all(self, task: str, texts: Sequence[str], form: type[A]) -> Iterator[A | None]:
        """The answer to each text in its order; None for one that stays malformed after all tries.

        Raises:
            BuildError: the endpoint fails after all attempts; what was answered before is kept.
        """
        pool = ThreadPoolExecutor(self.settings.concurrency)
        try:
            yield from pool.map(lambda text: self._ask(task, text, form), texts)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self, task: str, text: str, form: type[A]) -> A | None:
        key = hashlib.sha256(json.dumps([self.settings.model, task, text, form.__name__]).encode()).hexdigest()[:32]
        if key in self._answers:
            return form.model_validate(self._answers[key])
        for _ in range(1 + self.settings.malformed_retries):
            if self._stopped.is_set():
                return None
            answer = self._ask_once(task, text, form)
            if answer is not None:
                self._keep(key, answer)
                return answer
        return None

    def _ask_once(self, task: str, text: str, form: type[A]) -> A | None:
        from openai import OpenAIError

        messages: list[Any] = [{"role": "system", "content": task}, {"role": "user", "content": text}]
        schema: Any = {
            "type": "json_schema",
            "json_schema": {
                "name": form.__name__[1:].lower(),
                "strict": True,
                "schema": form.model_json_schema(),
            },
        }
        try:
            reply = self._client.chat.completions.create(
                model=self.settings.model, messages=messages, response_format=schema
            )
        except OpenAIError as error:
            # Cancel the other requests: they would fail as well, or cost money for a build that has failed.
            self._stopped.set()
            raise BuildError(
                f"{self._who} {self.settings.model} at {self._client.base_url}: {type(error).__name__}: {error}; "
                f"{len(self._answers)} answers are kept, the next run goes on from there"
            ) from error
        with self._lock:
            self.asked += 1
            if reply.usage:
                self.input_tokens += reply.usage.prompt_tokens
                self.output_tokens += reply.usage.completion_tokens
            if self.asked % _REPORT_EVERY == 0:
                self.log(f"{self.asked} answers, {self.resumed} from before, cost {self.cost:.2f} so far")
        content = reply.choices[0].message.content if reply.choices else None
        try:
            return form.model_validate_json(content or "")
        except ValidationError:
            with self._lock:
                self.malformed += 1
            return None

    def _keep(self, key: str, answer: BaseModel) -> None:
        with self._lock:
            self._answers[key] = answer.model_dump()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "answer": answer.model_dump()}, ensure_ascii=False) + "\n")


def _read_answers(path: Path) -> dict[str, dict[str, Any]]:
    answers: dict[str, dict[str, Any]] = {}
    if path.exists():
        text = path.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):
            path.write_text(text + "\n", encoding="utf-8")
        for line in text.splitlines():
            try:
                row = json.loads(line)
                answers[row["key"]] = row["answer"]
            except (ValueError, KeyError, TypeError):
                # The last line of an interrupted build can be incomplete.
                continue
    return answers
