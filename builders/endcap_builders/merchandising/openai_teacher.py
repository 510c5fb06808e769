"""An LLM as teacher, through any endpoint with the OpenAI chat API."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from endcap_server.shop.prompts import ThemeDraft
from pydantic import BaseModel, ConfigDict

from endcap_builders.chat import OpenAISettings as OpenAISettings
from endcap_builders.chat import StructuredChat
from endcap_builders.merchandising.statistics import Statistics
from endcap_builders.merchandising.teacher import KeywordRequest, ThemeTask

_SAMPLE_CATEGORIES = 60


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
        instead = "build with the default teacher (merchandiser)"
        self._chat = StructuredChat(settings, answers, log, who="teacher", instead=instead)
        names = [statistics.topics[topic].name for topic in statistics.popular(_SAMPLE_CATEGORIES)]
        self._themes_task = _THEMES_TASK.format(categories=", ".join(names))

    def themes(self, requests: Sequence[ThemeTask]) -> Iterator[list[ThemeDraft]]:
        """Request each page; a page that stays malformed after all tries is empty."""
        texts = [f"Shopper: {r.profile.text()}\nPlacements: {r.placements}" for r in requests]
        for page in self._chat.ask_all(self._themes_task, texts, _Page):
            yield [ThemeDraft(theme.title, tuple(theme.concepts)) for theme in page.themes] if page else []

    def choose_keywords(self, requests: Sequence[KeywordRequest]) -> Iterator[list[str]]:
        """Request each choice; one that stays malformed after all tries is empty."""
        texts = [
            f"Theme: {r.theme.title}\nConcepts: {', '.join(r.theme.concepts)}\nChoose: {r.choose}\nKeywords:\n"
            + "\n".join(r.candidates)
            for r in requests
        ]
        for answer in self._chat.ask_all(_KEYWORDS_TASK, texts, _Keywords):
            yield list(answer.keywords) if answer else []

    @property
    def cost(self) -> float:
        """Cost of this run, in the currency of the prices."""
        return self._chat.cost

    def figures(self) -> dict[str, Any]:
        """The teacher's entry in the manifest."""
        return self._chat.figures()
