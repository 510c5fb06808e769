"""Keywords: LLM 2 orders the known search keywords nearest to each theme's concepts; the first ones are taken (P2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from pydantic import Field

from endcap_server.declared.deadline import after_ms, left_ms
from endcap_server.declared.errors import EngineError
from endcap_server.declared.model import ModelDeclaration
from endcap_server.declared.parameters import ModelParameters
from endcap_server.declared.reasons import Cause, Source
from endcap_server.declared.tensors import Tensors, bytes_tensor
from endcap_server.shop import prompts
from endcap_server.shop.exclusion import ExcludedNames, Exclusions
from endcap_server.shop.gates import is_installed
from endcap_server.shop.store import STORE_FILES, ItemStore
from endcap_server.shop.words import distinct_things
from endcap_server.stages import documents
from endcap_server.stages.answer_cache import AnswerCache, CachedAnswer, CacheParameters
from endcap_server.stages.base import Engines, Stage, StageAnswer
from endcap_server.stages.documents import KeywordRows, Themes, content_and_ticket, ticket_of
from endcap_server.stages.nearest_client import NearestClient
from endcap_server.stages.status import StatusPart


class KeywordsCheck(StrEnum):
    """What the quality checks of keywords find."""

    THEME_WITHOUT_KEYWORDS = "theme_without_keywords"
    KEYWORD_FIT = "keyword_fit"
    KEYWORD_REPEATS = "keyword_repeats"
    KEYWORD_EXCLUDED = "keyword_excluded"
    KEYWORD_ADDED = "keyword_added"


class KeywordsCause(StrEnum):
    """Why keywords are not from LLM 2 although no engine failed."""

    NO_KEYWORDS = "no_keywords"
    TOO_FEW = "too_few"


class KeywordsParameters(CacheParameters):
    """Parameters of ``keywords/config.pbtxt``."""

    candidates: int = Field(30, ge=5, le=prompts.MAX_CANDIDATES, description="known keywords that LLM 2 orders")
    keywords: int = Field(5, ge=1, le=16, description="keywords chosen for each theme, at most")
    min_keywords: int = Field(2, ge=1, le=16, description="keywords below which the nearest ones are added")
    popularity_prior: float = Field(
        0.0, ge=-10, le=10, description="taken off LLM 2's logit for each e-fold of a keyword's searches; < 0: added"
    )
    checks_ms: float = Field(5.0, ge=0, le=1000, description="milliseconds of the budget kept for the checks")
    fit_floor: float = Field(0.25, ge=-1, le=1, description="least cosine of a keyword and its theme (AIQA)")


@dataclass
class _Work:
    """One theme in progress: candidates (nearest first), their fit to the theme, and the chosen ones."""

    theme: str
    concepts: list[str]
    rows: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    fit: dict[int, float] = field(default_factory=dict)
    chosen: list[int] = field(default_factory=list)
    ranked: bool = False


class Keywords(Stage):
    """The third stage of the storefront; it caches complete answers."""

    declaration = ModelDeclaration(
        name="keywords",
        summary="Stage 3: LLM 2 orders the known keywords nearest to each theme's concepts; the first ones are taken.",
        inputs=(documents.THEMES,),
        outputs=(documents.KEYWORDS,),
        parameters=KeywordsParameters,
        calls=("nearest", "keyword_llm"),
        files=lambda settings: STORE_FILES,
        optional_files=("gates/gates.json",),
        ordered=(("min_keywords", "keywords"),),
        reserve=("checks_ms", "keywords_share"),
    )
    sources = (Source.GENERATED, Source.PREPARED, Source.CACHED, Source.FALLBACK)
    checks = KeywordsCheck
    causes = KeywordsCause
    settings: KeywordsParameters

    def __init__(self, build: Path, parameters: Mapping[str, str] | ModelParameters, engines: Engines, model: str = ""):
        super().__init__(build, parameters, engines, model)
        self.store = ItemStore.open(build)
        self.nearest = NearestClient(engines, len(self.store), len(self.store.keywords))
        self.exclusions = Exclusions(self.store)
        self.installed = is_installed(build, "keyword_llm")
        self.cache = AnswerCache(self.settings.cache_entries, self.settings.cache_ttl_s)

    def recall(self, inputs: Tensors) -> StageAnswer | None:
        """The cached answer for equal themes."""
        known = self.cache.get(content_and_ticket(inputs["THEMES"])[0])
        if known is None:
            return None
        return StageAnswer({}, self.status(Source.CACHED, known.status).document, known.document)

    async def answer(self, inputs: Tensors) -> StageAnswer:
        """Answer KEYWORDS: rows of the known keywords, [Q, K]."""
        status = self.status(Source.GENERATED)
        themes = Themes.read(inputs["THEMES"])
        content, _ = content_and_ticket(inputs["THEMES"])
        deadline_ns = ticket_of(inputs["THEMES"]).keywords_ns
        excluded = self.exclusions.of(themes.rules)
        works = [
            _Work(title, list(dict.fromkeys(filter(None, concepts))) or [title])
            for title, concepts in zip(themes.titles, themes.concepts, strict=True)
        ]
        prepared = self._take_prepared(works, themes, excluded, status)
        asked = [work for work in works if work.theme and not work.chosen]
        if prepared and not asked:
            status.source, complete = Source.PREPARED, False
        elif asked and await self._find_candidates(asked, excluded, deadline_ns, status):
            complete = await self._choose([work for work in asked if work.rows], deadline_ns, status)
        else:
            complete = False
            for work in asked:
                # Without the engine, use the concepts that are known keywords.
                found = self.store.keywords.find([" ".join(text.casefold().split()) for text in work.concepts])
                known = self._allowed(list(dict.fromkeys(row for row in found.tolist() if row >= 0)), excluded, status)
                work.chosen = known[: self.settings.keywords]
        width = self.settings.keywords
        rows = np.full((len(works), width), -1, np.int32)
        for row, work in enumerate(works):
            rows[row, : len(work.chosen)] = work.chosen
        chosen = KeywordRows.of(rows, [work.ranked for work in works]).json_text()
        if complete and not prepared and status.can_be_kept:
            self.cache.put(content, CachedAnswer(chosen, status.lasting))
        return StageAnswer({}, status.document, chosen)

    def _take_prepared(
        self, works: Sequence[_Work], themes: Themes, excluded: ExcludedNames | None, status: StatusPart
    ) -> int:
        """Give prepared themes their keywords, as far as the request allows these; returns how many have some."""
        for work, rows, ranked in zip(works, themes.keywords, themes.ranked, strict=False):
            work.chosen = self._allowed(list(rows), excluded, status)[: self.settings.keywords]
            work.ranked = ranked and bool(work.chosen)
        taken = sum(bool(work.chosen) for work in works)
        if taken:
            status.extra["prepared_keyword_themes"] = taken
        return taken

    async def _find_candidates(
        self, works: Sequence[_Work], excluded: ExcludedNames | None, deadline_ns: int, status: StatusPart
    ) -> bool:
        """The known keywords nearest to each theme's concepts, interleaved over the concepts; False if that failed."""
        settings = self.settings
        texts = list(dict.fromkeys(chain.from_iterable([work.theme, *work.concepts] for work in works)))
        if not len(self.store.keywords):
            status.fall_back("the catalogue has no known keywords", KeywordsCause.NO_KEYWORDS)
            return False
        try:
            # This runs even without budget left: otherwise the page would have no products for its themes.
            found = await self.nearest.keywords(texts, settings.candidates, max(deadline_ns, after_ms(5)))
        except EngineError as error:
            status.fall_back_on(error)
            return False
        place = {text: index for index, text in enumerate(texts)}
        for work in works:
            of_concepts = [found.rows[place[text]].tolist() for text in work.concepts]
            taken = dict.fromkeys(row for turn in zip_longest(*of_concepts, fillvalue=-1) for row in turn if row >= 0)
            said = [place[text] for text in (work.theme, *work.concepts)]
            near = self._allowed(list(taken)[: 2 * settings.candidates], excluded, status)
            self._judge(work, near, found.vectors[said])
            if not work.rows:
                status.count(KeywordsCheck.THEME_WITHOUT_KEYWORDS)
        return True

    def _allowed(self, rows: list[int], excluded: ExcludedNames | None, status: StatusPart) -> list[int]:
        """The keywords that are not about excluded products and do not name anything excluded."""
        if excluded is None:
            return rows
        kept = excluded.free_keywords(rows)
        status.count(KeywordsCheck.KEYWORD_EXCLUDED, len(rows) - len(kept))
        return kept

    def _judge(self, work: _Work, rows: list[int], vectors: np.ndarray) -> None:
        """Keep the candidates whose texts fit into a prompt, with their cosine to title and concepts together."""
        texts = self.store.keywords.take(rows)
        row_of = dict(zip(texts, rows, strict=True))
        work.texts = prompts.usable_candidates(texts)[: self.settings.candidates]
        work.rows = [row_of[text] for text in work.texts]
        middle = vectors.mean(axis=0)
        middle /= max(float(np.linalg.norm(middle)), 1e-6)
        if work.rows:
            fits = self.store.keyword_vectors[work.rows].astype(np.float32) @ middle
            work.fit = dict(zip(work.rows, fits.tolist(), strict=True))

    async def _choose(self, works: Sequence[_Work], deadline_ns: int, status: StatusPart) -> bool:
        """Let LLM 2 order the candidates of all themes in one call; returns whether it did."""
        if not self.installed:
            # The build measured that the nearest keywords are better. This is no failure.
            status.source = Source.COMPUTED
            for work in works:
                self._complete(work, False, status)
            return True
        logits = await self._ask(works, deadline_ns, status)
        for row, work in enumerate(works):
            if logits is not None:
                best = np.argsort(self._prior(work) - logits[row, : len(work.rows)], kind="stable")
                # The first ones, and some to replace those that do not fit or repeat another.
                first = [work.rows[place] for place in best[: 2 * self.settings.keywords].tolist()]
                fitting = [each for each in first if work.fit[each] >= self.settings.fit_floor]
                status.count(KeywordsCheck.KEYWORD_FIT, len(first) - len(fitting))
                distinct = self._distinct(fitting)
                status.count(KeywordsCheck.KEYWORD_REPEATS, len(fitting) - len(distinct))
                work.chosen, work.ranked = distinct[: self.settings.keywords], bool(fitting)
            self._complete(work, work.ranked, status)
        fallen = sum(not work.ranked for work in works)
        if fallen:
            missing = f"{fallen} of {len(works)} themes have the nearest keywords"
            status.fall_back(missing, KeywordsCause.TOO_FEW, whole=fallen == len(works))
            status.extra["nearest_keyword_themes"] = fallen
        return not fallen

    def _prior(self, work: _Work) -> np.ndarray:
        """What the popularity of each candidate takes off its logit, float32 [n]."""
        counts = self.store.keyword_counts[work.rows].astype(np.float32)
        return (self.settings.popularity_prior * np.log1p(counts)).astype(np.float32)

    async def _ask(self, works: Sequence[_Work], deadline_ns: int, status: StatusPart) -> np.ndarray | None:
        """LLM 2's logits of each theme's candidates, float32 [n, most]; after a failure, a note in ``status``."""
        if not works:
            return None
        llm_deadline_ns = deadline_ns - int(self.settings.checks_ms * 1e6)
        if left_ms(llm_deadline_ns) <= 0:
            status.fall_back("keyword_llm: the budget leaves it no time", Cause.NO_TIME, "keyword_llm")
            return None
        counts = np.array([len(work.texts) for work in works], np.int32)
        inputs = {
            "PROMPT": bytes_tensor([prompts.keyword_prompt(work.theme, work.concepts, work.texts) for work in works]),
            "COUNT": counts,
        }
        try:
            answer = await self.engines.call("keyword_llm", inputs, llm_deadline_ns, ("LOGIT",))
        except EngineError as error:
            status.fall_back_on(error)
            return None
        return answer["LOGIT"]

    def _complete(self, work: _Work, chosen_by_llm: bool, status: StatusPart) -> None:
        """Add the nearest keywords that fit: up to `min_keywords`, or up to `keywords` if nothing was chosen."""
        wanted = min(self.settings.min_keywords, self.settings.keywords) if chosen_by_llm else self.settings.keywords
        before = len(work.chosen)
        if before >= wanted:
            return
        fitting = [row for row in work.rows if work.fit[row] >= self.settings.fit_floor]
        # A theme that is far from all known searches still needs keywords; take the nearest.
        nearest = fitting or sorted(work.rows, key=lambda row: -work.fit[row])
        work.chosen += self._distinct(nearest, work.chosen)[: wanted - before]
        if chosen_by_llm:
            status.count(KeywordsCheck.KEYWORD_ADDED, len(work.chosen) - before)

    def _distinct(self, rows: Sequence[int], taken: Sequence[int] = ()) -> list[int]:
        """Rows of keywords that name distinct things, also distinct from those that are taken."""
        row_of = {self.store.keywords[row]: row for row in rows}
        return [row_of[text] for text in distinct_things(row_of, self.store.keywords.take(taken))]
