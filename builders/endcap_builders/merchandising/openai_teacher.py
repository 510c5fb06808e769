"""An LLM as teacher, through any endpoint with the OpenAI chat API: structured output, retries, resumable.

Every answer is appended to a file with the hash of its request, so an interrupted build requests and pays only what is
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

from endcap_server.shop.prompts import ThemeDraft
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from endcap_builders.merchandising.statistics import Statistics
from endcap_builders.merchandising.teacher import KeywordRequest, ThemeTask
from endcap_builders.step import BuildError, Settings

A = TypeVar("A", bound=BaseModel)
_REPORT_EVERY = 50
_SAMPLE_CATEGORIES = 60


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


class _Theme(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str
    concepts: list[str]


class _Page(BaseModel):
    model_config = ConfigDict(extra="forbid")
    themes: list[_Theme]


class _Keywords(BaseModel):
    model_config = ConfigDict(extra="forbid")
    keywords: list[str]


_THEMES_TASK = """\
You are the merchandiser of an online shop. Write the themed placements of one shopper's page, most relevant first.
Each has a short, natural title (2 to 6 words, sentence case, no punctuation but ? or !) and 2 to 4 product concepts:
things that a shopper would type into the search box, in lower case, without brands.
The shopper's line says what the shopper likes (kinds of products; those between two semicolons suit one placement, "+"
marks what the shopper has never bought and may buy next; write names without their {{numbers}}) and what is due again.
Mix what the shopper buys again, what comes next, what goes with it, occasions, the season, and brands; answer searches
and the campaign first. No two placements about the same things. Stay within what the shop sells.
Some categories: {categories}."""

_KEYWORDS_TASK = """\
You are the merchandiser of an online shop. Choose the search keywords whose products belong to a themed placement:
only keywords from the list, copied exactly, best first, covering all its concepts, none that leaves its theme."""


class OpenAITeacher:
    """Implements `teacher.Teacher`."""

    def __init__(
        self, settings: OpenAISettings, statistics: Statistics, answers: Path, log: Callable[[str], None]
    ) -> None:
        """Open the file of answers and the client.

        Raises:
            BuildError: there is no key.
        """
        # Half a second, which only builds that use an endpoint should wait.
        from openai import OpenAI

        key = os.environ.get(settings.key_variable, "")
        if not key:
            raise BuildError(
                f"teacher openai: expected a key in the environment variable {settings.key_variable}, found none; "
                "set it, or build with the default teacher (merchandiser)"
            )
        self.settings, self.log = settings, log
        self._client = OpenAI(
            api_key=key,
            base_url=settings.base_url or None,
            max_retries=settings.retries,
            timeout=settings.timeout_s,
        )
        names = [statistics.topics[topic].name for topic in statistics.popular(_SAMPLE_CATEGORIES)]
        self._themes_task = _THEMES_TASK.format(categories=", ".join(names))
        self._path = answers
        self._answers = _read_answers(answers)
        self.resumed = len(self._answers)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.asked = self.malformed = self.input_tokens = self.output_tokens = 0

    def themes(self, requests: Sequence[ThemeTask]) -> Iterator[list[ThemeDraft]]:
        """Request each page; a page that stays malformed after all tries is empty."""
        texts = [f"Shopper: {r.profile.text()}\nPlacements: {r.placements}" for r in requests]
        for page in self._ask_all(self._themes_task, texts, _Page):
            yield [ThemeDraft(theme.title, tuple(theme.concepts)) for theme in page.themes] if page else []

    def choose_keywords(self, requests: Sequence[KeywordRequest]) -> Iterator[list[str]]:
        """Request each choice; one that stays malformed after all tries is empty."""
        texts = [
            f"Theme: {r.theme.title}\nConcepts: {', '.join(r.theme.concepts)}\nChoose: {r.choose}\nKeywords:\n"
            + "\n".join(r.candidates)
            for r in requests
        ]
        for answer in self._ask_all(_KEYWORDS_TASK, texts, _Keywords):
            yield list(answer.keywords) if answer else []

    @property
    def cost(self) -> float:
        """Cost of this run, in the currency of the prices."""
        return (
            self.input_tokens * self.settings.input_price + self.output_tokens * self.settings.output_price
        ) / 1_000_000

    def figures(self) -> dict[str, Any]:
        """The teacher's entry in the manifest."""
        return {
            "teacher_model": self.settings.model,
            "asked": self.asked,
            "resumed": self.resumed,
            "malformed": self.malformed,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost": round(self.cost, 4),
        }

    def _ask_all(self, task: str, texts: Sequence[str], form: type[A]) -> Iterator[A | None]:
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
                f"teacher {self.settings.model} at {self._client.base_url}: {type(error).__name__}: {error}; "
                f"{len(self._answers)} answers are kept, the next build goes on from there"
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
