"""Makes pages: retrieval, theme and keywords of a build in this process, many shoppers side by side."""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from endcap_server.declared.errors import InvalidRequest
from endcap_server.declared.reasons import Source
from endcap_server.declared.tensors import Tensors, bytes_tensor
from endcap_server.ensembles import STAGES, STOREFRONT
from endcap_server.lint.repository import View, read_repository
from endcap_server.prepared.page import PreparedPage, PreparedTheme, history_digests, search_digests
from endcap_server.shop.facts import FOLDER_VARIABLE as FACTS_VARIABLE
from endcap_server.shop.gates import is_installed
from endcap_server.shop.prompts import quoted_texts
from endcap_server.shop.store import ItemStore
from endcap_server.stages.base import Stage
from endcap_server.stages.documents import KeywordRows, PlacementSource, ThemeRequest, Themes
from endcap_server.stages.status import part_of, read_versions

from endcap_builders.environment import environment
from endcap_builders.prepare.errors import PrepareError
from endcap_builders.prepare.shoppers import Shopper

_STAGES = ("retrieval", "theme", "keywords")
_ENGINES = ("nearest", "theme_llm", "keyword_llm")
_BUDGET_MS = 600_000
_OWN_SETTINGS: dict[str, dict[str, Any]] = {
    # Nobody waits: nothing is refused, and a slow machine is no reason for a fallback.
    "retrieval": {
        "max_in_flight": 0,
        "max_budget_ms": _BUDGET_MS,
        "default_budget_ms": _BUDGET_MS,
        "recorded_requests": 0,
        "cached_shoppers": 0,
    },
    "theme": {"prepared_drift": -1},
    "keywords": {},
}
_WRITTEN = (PlacementSource.GENERATED, PlacementSource.SESSION)


@dataclass(frozen=True)
class MakerOptions:
    """What determines pages besides the shopper.

    Attributes:
        build: A finished build.
        placements: Placements of a page.
        profile: Of the engines, "cpu" or "gpu".
        facts: Folder of the facts that pages respect.
    """

    build: Path
    placements: int
    profile: str
    facts: Path


@dataclass(frozen=True)
class Made:
    """What came of one shopper.

    Attributes:
        page: The page; None if there is none to keep.
        problem: Why there is none, "" otherwise.
        unknown: Products of the history that the catalogue does not have.
    """

    page: PreparedPage | None
    problem: str = ""
    unknown: int = 0


class PageMaker:
    """Makes pages with the stages and engines of a build. Use it in one thread.

    Raises:
        PrepareError: The build is not finished, or has no LLM 1.
    """

    def __init__(self, options: MakerOptions) -> None:
        from endcap_server.engines.local import LocalEngines

        build = options.build
        configs = View(read_repository(build / "repository"), options.profile).configs
        if missing := [name for name in (*_STAGES, *_ENGINES) if name not in configs]:
            raise PrepareError(f"{build}: expected a finished build, got no model {missing[0]}; run endcap build")
        if not is_installed(build, "theme_llm"):
            raise PrepareError(
                f"{build}: expected LLM 1, got a build that does not install it: its themes are categories, which need "
                "no preparation"
            )
        self._placements = options.placements
        self.versions = read_versions(build)
        self._store = ItemStore.open(build)
        with ExitStack() as opened:
            folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="endcap-prepare-"))
            opened.enter_context(environment({"ENDCAP_RUN_DIR": folder, FACTS_VARIABLE: str(options.facts)}))
            engines = LocalEngines(build, {name: configs[name].own_texts for name in _ENGINES})
            opened.callback(engines.close)
            self._stages: dict[str, Stage] = {
                name: STAGES[name](
                    build, STAGES[name].declaration.parameters(**(configs[name].own_texts | own)), engines
                )
                for name, own in _OWN_SETTINGS.items()
            }
            for stage in self._stages.values():
                opened.callback(stage.close)
            self._opened = opened.pop_all()
        self._steps = [step for step in STOREFRONT.steps if step.stage.name in _STAGES]

    def make(self, shoppers: Sequence[Shopper], done: Callable[[], None] = lambda: None) -> list[Made]:
        """The pages of shoppers, in their order; calls ``done`` after each."""

        async def one(shopper: Shopper) -> Made:
            made = await self._make(shopper)
            done()
            return made

        async def every() -> list[Made]:
            return list(await asyncio.gather(*map(one, shoppers)))

        return asyncio.run(every())

    def close(self) -> None:
        """Stop the engines."""
        self._opened.close()

    async def _make(self, shopper: Shopper) -> Made:
        made_s = time.time()
        tensors: Tensors = {
            "HISTORY": bytes_tensor(shopper.history),
            "SESSION": bytes_tensor(shopper.session),
            "PLACEMENTS": np.array([self._placements], np.int32),
        }
        unknown = 0
        for step in self._steps:
            inputs = {own: tensors[name] for own, name in step.inputs.items() if name in tensors}
            try:
                outputs = await self._stages[step.stage.name].run(inputs)
            except InvalidRequest as error:
                return Made(None, str(error))
            tensors |= {name: outputs[own] for own, name in step.outputs.items()}
            part = part_of(outputs[step.stage.status_tensor])
            unknown += int(part.get("unknown_ids", 0))
            if step.stage.name == "retrieval" and not part["known_history"] and not shopper.session:
                return Made(None, "no product of the history is known", unknown)
            # Parts of it may be categories, or the nearest keywords; then they would be online too.
            if engines := [each for each in part.get("causes", ()) if each["engine"] in _ENGINES]:
                return Made(None, f"{engines[0]['engine']}: {engines[0]['cause']}", unknown)
            if part["source"] == Source.FALLBACK:
                return Made(None, f"{step.stage.name}: {part['reason']}", unknown)
        return self._page(shopper, tensors, made_s, unknown)

    def _page(self, shopper: Shopper, tensors: Tensors, made_s: float, unknown: int) -> Made:
        themes, keywords = Themes.read(tensors["themes"]), KeywordRows.read(tensors["keywords"])
        found = []
        for place, title in enumerate(themes.titles):
            rows = [row for row in keywords.rows[place] if row >= 0]
            if not title or not rows or themes.source(place) not in _WRITTEN:
                continue
            texts = tuple(self._store.keywords.take(rows))
            ranked = bool(keywords.ranked) and keywords.ranked[place]
            found.append(PreparedTheme(title=title, concepts=themes.about(place), keywords=texts, ranked=ranked))
        if len(found) < self._placements:
            return Made(None, "too few themes passed the checks", unknown)
        page = PreparedPage(
            made_s=made_s,
            placements=self._placements,
            history=history_digests(shopper.history)[0],
            searches=search_digests(shopper.session),
            campaign=quoted_texts(ThemeRequest.read(tensors["theme_request"]).shopper)[0],
            versions=self.versions,
            themes=tuple(found),
        )
        return Made(page, unknown=unknown)


def problems_of(made: Sequence[Made]) -> Counter[str]:
    """Why there are no pages -> of how many shoppers."""
    return Counter(each.problem for each in made if each.page is None)
