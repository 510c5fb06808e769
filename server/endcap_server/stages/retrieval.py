"""Retrieval: reads the request, finds candidate products, describes the shopper, and splits the budget.

A storefront's candidates come from several sources (`endcap_server.stages.sources`): what the shopper buys again, what
goes with it, what sells now, and what is near to a few query vectors: one vector per recent interest (the history by
category, weighted by recency) and one per search of the session, blended with what in the history resembles it. A
search's candidates come from the query alone, so that every shopper finds the
same products; the history reaches the ranker.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from pydantic import Field, model_validator

from endcap_server.declared.deadline import after_ms, left_ms
from endcap_server.declared.errors import EngineError, OverloadError
from endcap_server.declared.model import ModelDeclaration, tensor
from endcap_server.declared.parameters import ModelParameters
from endcap_server.declared.reasons import Source
from endcap_server.declared.tensors import Tensors
from endcap_server.shop import behaviour, kinds, prompts
from endcap_server.shop.behaviour import Behaviour
from endcap_server.shop.exclusion import Exclusions
from endcap_server.shop.kinds import Kinds
from endcap_server.shop.rules import RuleIndex
from endcap_server.shop.store import STORE_FILES, ItemStore
from endcap_server.shop.understanding import Understanding
from endcap_server.stages import contract, documents
from endcap_server.stages.admission import Admission, Refusal
from endcap_server.stages.allowed import Allowed
from endcap_server.stages.base import Engines, Stage, StageAnswer
from endcap_server.stages.candidates import (
    Candidates,
    Found,
    blend_with_history,
    fuse,
    interests,
    merge,
    popular_rows,
    recency,
)
from endcap_server.stages.documents import AnsweredSearch, KeywordRows, PageRequest, ThemeRequest, Themes, Ticket
from endcap_server.stages.in_flight import InFlight
from endcap_server.stages.nearest_client import Hits, NearestClient, Words
from endcap_server.stages.recorder import Recorder
from endcap_server.stages.run_folder import DRAINING
from endcap_server.stages.sources import HISTORY_ITEMS, CandidateSource, Ranked, ShopperSources
from endcap_server.stages.status import StatusPart

_IDS_AT_ONCE = 1024
_FAVOURITES, _DUE, _BRANDS = 6, 3, 3
_Answer = TypeVar("_Answer", Hits, Words, np.ndarray)


class RetrievalCheck(StrEnum):
    """What of a session is left out before candidates are looked for, or quoted nowhere."""

    SESSION_EXCLUDED = "session_excluded"
    SESSION_NOT_QUOTED = "session_not_quoted"


def _share(default: float, what: str) -> Any:
    return Field(default, ge=0, le=100, description=f"turns of {what} in the choice of candidates, against the others'")


class RetrievalParameters(ModelParameters):
    """Parameters of ``retrieval/config.pbtxt``."""

    default_budget_ms: int = Field(2000, ge=1, le=600_000, description="BUDGET_MS of a request that does not say")
    max_budget_ms: int = Field(30_000, ge=1, le=600_000, description="longer budgets are cut to this")
    max_in_flight: int = Field(
        64, ge=0, le=1024, description="requests in flight beyond which more are refused; 0: nothing is ever refused"
    )
    min_in_flight: int = Field(
        2, ge=1, le=1024, description="requests in flight below which none is refused, whatever it is expected to take"
    )
    admission_share: float = Field(
        0.85, gt=0, le=1, description="share of its budget that a request may be expected to take to be let in"
    )
    retrieval_share: float = Field(0.15, gt=0, lt=1, description="share of the budget that retrieval may use")
    theme_share: float = Field(0.35, ge=0, lt=1, description="share of the budget that theme may use")
    keywords_share: float = Field(0.25, ge=0, lt=1, description="share of the budget that keywords may use")
    history_used: int = Field(
        HISTORY_ITEMS, ge=1, le=1000, description="most recent known products of HISTORY that are used"
    )
    session_used: int = Field(5, ge=1, le=20, description="most recent texts of SESSION that are searched for")
    interests: int = Field(4, ge=1, le=16, description="interests (categories) of the history that are searched for")
    half_life: float = Field(20.0, gt=0, le=1000, description="events after which one in the history counts half")
    session_placements: int = Field(2, ge=0, le=5, description="latest searches of SESSION that get a placement each")
    session_products: int = Field(40, ge=4, le=512, description="products of such a placement that are scored, at most")
    session_weight: float = Field(1.5, gt=0, le=100, description="weight of the session against the history")
    session_blend: float = Field(0.3, ge=0, le=5, description="weight of the history in a search of the session")
    candidates: int = Field(300, ge=10, le=2000, description="candidate products of a storefront")
    repeat_share: float = _share(0.3, "what the shopper had before")
    together_share: float = _share(0.15, "what the same shoppers buy")
    popular_share: float = _share(0.2, "what sells now")
    category_share: float = _share(0.15, "what sells now in the shopper's categories")
    vector_share: float = _share(0.2, "what is like the history")
    session_share: float = _share(0.8, "what is like the session's searches, if there are any, and the history,")
    search_candidates: int = Field(150, ge=10, le=2000, description="candidate products of a search")
    search_words: float = Field(
        0.5, ge=0, le=1, description="weight of the words, against the vectors, in the choice of a search's candidates"
    )
    search_keywords: int = Field(3, ge=1, le=16, description="known keywords that a search is matched to")
    search_keyword_similarity: float = Field(
        0.85, ge=0, le=1, description="least cosine of a query and a known keyword that says the same"
    )
    seasons: Literal["north", "south", "none"] = Field("north", description="whose seasons LLM 1 is told, if any")
    recorded_requests: int = Field(
        64, ge=0, le=1000, description="latest requests kept for endcap apply to replay, at most 4 a second; 0: none"
    )

    @model_validator(mode="after")
    def _something_is_found(self) -> "RetrievalParameters":
        if not any(self.turns(session=False).values()) or not any(self.turns(session=True).values()):
            raise ValueError("at least one share of a source of candidates above 0, with a session and without")
        return self

    def turns(self, *, session: bool) -> dict[CandidateSource, float]:
        """How often each source has its turn, for a shopper who has searched in this session or not."""
        return {
            CandidateSource.REPEAT: self.repeat_share,
            CandidateSource.TOGETHER: self.together_share,
            CandidateSource.POPULAR: self.popular_share,
            CandidateSource.CATEGORY: self.category_share,
            CandidateSource.VECTOR: self.session_share if session else self.vector_share,
        }

    @model_validator(mode="after")
    def _shares_leave_something(self) -> "RetrievalParameters":
        if (total := self.retrieval_share + self.theme_share + self.keywords_share) > 0.95:
            raise ValueError(f"shares of the budget that leave 0.05 for rerank and fusion, their sum is {total:g}")
        return self


class Retrieval(Stage):
    """The first stage of both ensembles."""

    declaration = ModelDeclaration(
        name="retrieval",
        summary="Stage 1: validates the request, looks the shopper up, finds candidate products, splits the budget.",
        inputs=(
            tensor("QUERY", "STRING", 1, optional=True),
            tensor("HISTORY", "STRING", -1, optional=True),
            tensor("SESSION", "STRING", -1, optional=True),
            tensor("RULES", "STRING", 1, optional=True),
            tensor("PLACEMENTS", "INT32", 1, optional=True),
            tensor("PRODUCTS", "INT32", 1, optional=True),
            tensor("BUDGET_MS", "INT32", 1, optional=True),
        ),
        outputs=(
            documents.CANDIDATE_ROW,
            documents.CANDIDATE_SOURCE,
            documents.CANDIDATE_SIMILARITY,
            documents.CANDIDATE_LEXICAL,
            documents.PAGE,
            documents.THEME_REQUEST,
            documents.QUERY_THEMES,
            documents.QUERY_KEYWORDS,
        ),
        parameters=RetrievalParameters,
        calls=("nearest",),
        files=lambda settings: STORE_FILES,
        optional_files=(*kinds.FILES, *behaviour.FILES),
        ordered=(("default_budget_ms", "max_budget_ms"),),
    )
    # Without QUERY, Triton would report a deadlock of the ensemble: its tensor is optional there, and required here.
    requires: ClassVar = {"QUERY_THEMES": ("QUERY", "exactly 1 text of 1 to 512 characters")}
    checks = RetrievalCheck
    refusals = Refusal
    settings: RetrievalParameters

    def __init__(self, build: Path, parameters: Mapping[str, str] | ModelParameters, engines: Engines, model: str = ""):
        super().__init__(build, parameters, engines, model)
        self.store = ItemStore.open(build)
        self.kinds = Kinds.open(build, self.store)
        self.rule_index = RuleIndex(self.store)
        self.exclusions = Exclusions(self.store)
        self.understanding = Understanding.of(self.store)
        self.admission = Admission(
            InFlight(self.run_folder, self.model),
            self.settings.max_in_flight,
            self.settings.min_in_flight,
            self.settings.admission_share,
        )
        self._draining = self.run_folder / DRAINING
        self.recorder = Recorder(self.run_folder, self.model, self.settings.recorded_requests)
        self.nearest = NearestClient(engines, len(self.store), len(self.store.keywords))
        self.popular = popular_rows(self.store)
        self.shopper_sources = ShopperSources(self.store, Behaviour.open(build, self.store))

    async def answer(self, inputs: Tensors) -> StageAnswer:
        """Read a request of either ensemble and answer what the following stages need of it.

        Raises:
            InvalidRequest: The request breaks the contract.
            Overloaded: It cannot be answered within its budget, because of what is in flight already; or the server
                is about to stop.
        """
        status = self.status()
        if self._draining.exists():
            raise OverloadError("the server is stopping; ask another one", Refusal.STOPPING)
        request = contract.read_request(inputs, self.settings.default_budget_ms, self.settings.max_budget_ms)
        self.recorder.note(inputs)
        deadline_ns = status.started_ns + request.budget_ms * 1_000_000
        if not self.settings.max_in_flight:
            return await self._retrieve(request, deadline_ns, status)
        deadline_ns = self.admission.admit(_kind(request), deadline_ns, request.budget_ms)
        status.extra["in_flight"] = self.admission.in_flight
        try:
            return await self._retrieve(request, deadline_ns, status)
        except BaseException:
            self.admission.withdraw(deadline_ns)
            raise

    async def _retrieve(self, request: contract.Request, deadline_ns: int, status: StatusPart) -> StageAnswer:
        history, unknown = self._known(request.history)
        rules = self.rule_index.compile(request.rules)
        allowed = Allowed.of(self.store, rules)
        own_deadline_ns = status.started_ns + int(request.budget_ms * self.settings.retrieval_share * 1e6)

        keyword_rows = np.full(self.settings.search_keywords, -1, np.int32)
        shopper, categories = "", np.empty(0, np.int32)
        searches: tuple[AnsweredSearch, ...] = ()
        if request.query is not None:
            status.extra["not_understood"] = self.understanding.doubt(request.query)
            found, keyword_rows = await self._search(request.query, request.products, allowed, own_deadline_ns, status)
            sources = found.sources
        else:
            # What is excluded is no interest to write themes about either; the ranker still knows the whole history.
            taken = history[rules.allowed(history)]
            session = self._session(request, status)
            quotable = tuple(text for text in session if prompts.is_quotable(text))
            status.count(RetrievalCheck.SESSION_NOT_QUOTED, len(session) - len(quotable))
            candidates, liked, searches = await asyncio.gather(
                self._explore(taken, session, allowed, own_deadline_ns, status),
                self._favourites(taken, own_deadline_ns, status),
                self._answer_searches(quotable, request.products, allowed, own_deadline_ns, status),
            )
            categories = self._favourite_categories(taken, candidates)
            shopper = self._describe(taken, liked, quotable, request)
            found, sources = Found.of(candidates.rows, candidates.similarity), candidates.sources

        placements = 0 if request.is_search else request.placements
        ticket = self._ticket(request.budget_ms, deadline_ns)
        status.extra |= {
            "budget_ms": request.budget_ms,
            "unknown_ids": unknown + rules.unknown_products,
            "unknown_rules": rules.unknown[:20],
            "known_history": len(history),
            "candidates": len(found.rows),
        }
        page = PageRequest(
            ticket=ticket,
            placements=placements,
            products=request.products,
            rules=request.rules,
            history=tuple(history.tolist()),
            named=tuple(found.rows[found.named].tolist()),
            searches=searches,
        )
        themes = ThemeRequest(
            ticket=ticket,
            shopper=shopper,
            placements=placements,
            rules=request.rules.of_themes(),
            categories=tuple(categories.tolist()),
            searches=tuple(search.text for search in searches),
        )
        return StageAnswer(
            {
                "CANDIDATE_ROW": found.rows,
                "CANDIDATE_SOURCE": sources,
                "CANDIDATE_SIMILARITY": found.similarity,
                "CANDIDATE_LEXICAL": found.lexical,
                "THEME_REQUEST": themes.tensor(),
                "QUERY_THEMES": Themes(titles=(request.query or "",)).tensor(),
                "QUERY_KEYWORDS": KeywordRows.of(keyword_rows.reshape(1, -1)).tensor(),
            },
            status.document,
            page.json_text(),
        )

    def _session(self, request: contract.Request, status: StatusPart) -> tuple[str, ...]:
        """The texts of the session that do not ask for what is excluded."""
        excluded = self.exclusions.of(request.rules.of_themes().get("exclude", {}))
        if excluded is None:
            return request.session
        kept = tuple(text for text in request.session if not excluded.names(text))
        status.count(RetrievalCheck.SESSION_EXCLUDED, len(request.session) - len(kept))
        return kept

    def _known(self, history: tuple[str, ...]) -> tuple[np.ndarray, int]:
        """Rows of the most recent known products, oldest first: int32 [H]; and how many of the ids read are unknown.

        Ids are read from the newest until enough are known, so that a history of 10 000 costs no more than a short one.
        """
        rows, known = np.empty(0, np.int64), 0
        for end in range(len(history), 0, -_IDS_AT_ONCE):
            found = self.store.product_ids.find(history[max(0, end - _IDS_AT_ONCE) : end])
            rows, known = np.concatenate([found, rows]), known + int((found >= 0).sum())
            if known >= self.settings.history_used:
                break
        return rows[rows >= 0][-self.settings.history_used :].astype(np.int32), len(rows) - known

    def _ticket(self, budget_ms: int, deadline_ns: int) -> Ticket:
        """The request's ticket: theme and keywords have their shares, of less where retrieval took more than its own.

        What theme does not need of its share, keywords may use.
        """
        settings = self.settings
        later = 1 - settings.retrieval_share
        base_ms = min(float(budget_ms), max(0.0, left_ms(deadline_ns)) / later)
        return Ticket(
            table=self.model,
            deadline_ns=deadline_ns,
            theme_ns=after_ms(base_ms * settings.theme_share),
            keywords_ns=after_ms(base_ms * (settings.theme_share + settings.keywords_share)),
        )

    async def _search(
        self, query: str, products: int, allowed: Allowed, deadline_ns: int, status: StatusPart
    ) -> tuple[Found, np.ndarray]:
        """Candidates of a query and the known keywords (int32 [K], -1 padded) that say the same."""
        settings = self.settings
        equal = self.store.keywords.find([prompts.clean(query, contract.MAX_TEXT_CHARACTERS).lower()])[0]
        keyword_rows = np.full(settings.search_keywords, -1, np.int32)
        keyword_rows[0] = equal
        count = max(settings.search_candidates, products)
        near, words, keywords = await asyncio.gather(
            self._found(self.nearest.products([query], count, deadline_ns, allowed.bits), status),
            self._found(self.nearest.words(query, count, deadline_ns, allowed.bits), status, whole=False),
            self._found(self.nearest.keywords([query], settings.search_keywords, deadline_ns), status, whole=False),
        )
        if keywords is not None:
            rows, similarity = keywords.rows[0], keywords.similarity[0]
            alike = rows[(rows >= 0) & (rows != equal) & (similarity >= settings.search_keyword_similarity)]
            alike = alike[: len(keyword_rows) - (equal >= 0)]
            keyword_rows[int(equal >= 0) : int(equal >= 0) + len(alike)] = alike
        if near is not None:
            words = words or Words.none()
            weight = settings.search_words
            return fuse(self.store.vectors, near.vectors[0], near.rows[0], words, weight, count), keyword_rows
        known = self.store.keyword_products[equal] if equal >= 0 else np.empty(0, np.int32)
        rows = np.concatenate([known, allowed.first(self.popular, count)])
        without = merge(allowed, rows[None], np.zeros((1, len(rows)), np.float32), np.ones(1), count)
        return Found.of(without.rows, without.similarity), keyword_rows

    async def _answer_searches(
        self, session: tuple[str, ...], products: int, allowed: Allowed, deadline_ns: int, status: StatusPart
    ) -> tuple[AnsweredSearch, ...]:
        """What the latest searches of a session find, newest first, as `search` would; each gets a placement."""
        texts = [prompts.clean(text, prompts.CONCEPT_CHARACTERS).lower() for text in reversed(session)]
        latest = [text for text in dict.fromkeys(texts) if text][: self.settings.session_placements]
        count = max(self.settings.session_products, products)
        answers = await asyncio.gather(*(self._search(text, products, allowed, deadline_ns, status) for text in latest))
        return tuple(
            AnsweredSearch(
                text=text,
                rows=tuple(found.rows[:count].tolist()),
                similarity=tuple(np.nan_to_num(found.similarity[:count]).tolist()),
                lexical=tuple(np.nan_to_num(found.lexical[:count]).tolist()),
            )
            for text, (found, _) in zip(latest, answers, strict=True)
            if len(found.rows)
        )

    async def _explore(
        self,
        history: np.ndarray,
        session: tuple[str, ...],
        allowed: Allowed,
        deadline_ns: int,
        status: StatusPart,
    ) -> Candidates:
        """Candidates of a shopper: those of every source by its share."""
        settings = self.settings
        near = await self._near(history, session, allowed, deadline_ns, status)
        if near is not None:
            others = {CandidateSource.VECTOR: near.rows}
        else:
            if status.source != Source.FALLBACK:
                status.extra["candidates_from"] = "popularity"
            # Without behaviour, what sells is not known; there is no other source then.
            sold = self.shopper_sources.tables.behaviour.by_popularity
            others = {} if len(sold) else {CandidateSource.POPULAR: allowed.first(self.popular, settings.candidates)}
        turns = settings.turns(session=bool(session))
        found = self.shopper_sources.find(history, others, turns, allowed.among, settings.candidates)
        similarity = np.zeros(len(found.rows), np.float32)
        if near is not None:
            similarity = Ranked(near.rows, near.similarity).of(found.rows)
        return Candidates(found.rows, similarity, found.sources)

    async def _near(
        self,
        history: np.ndarray,
        session: tuple[str, ...],
        allowed: Allowed,
        deadline_ns: int,
        status: StatusPart,
    ) -> Candidates | None:
        """Products near to the interests of a history and to the searches of a session; None without any or failed."""
        settings = self.settings
        vectors, weights = interests(self.store, history, self.settings.half_life, self.settings.interests)
        if texts := list(dict.fromkeys(session[-settings.session_used :])):
            encoded = await self._found(self.nearest.encode(texts, deadline_ns), status)
            if encoded is not None:
                blended = blend_with_history(self.store, encoded, history, settings.half_life, settings.session_blend)
                of_session = settings.session_weight * 0.8 ** np.arange(len(texts))[::-1]
                vectors, weights = np.concatenate([vectors, blended]), np.concatenate([weights, of_session])
        if not len(vectors):
            return None
        search = self.nearest.products(vectors, settings.candidates, deadline_ns, allowed.bits)
        found = await self._found(search, status)
        if found is None:
            return None
        return merge(allowed, found.rows, found.similarity, weights, settings.candidates)

    async def _found(self, call: Awaitable[_Answer], status: StatusPart, *, whole: bool = True) -> _Answer | None:
        """What a call of the nearest engine answers; None when it failed, which the status then says."""
        try:
            return await call
        except EngineError as error:
            status.fall_back_on(error, whole=whole)
            return None

    def _favourite_categories(self, history: np.ndarray, candidates: Candidates) -> np.ndarray:
        """The category positions a shopper buys from, best first: int32 [F]; of a session alone, those it is about."""
        rows, weights = history, recency(len(history), self.settings.half_life)
        if not len(rows) and candidates.similarity.any():
            rows = candidates.rows[:20]
            weights = candidates.similarity[:20]
        category = self.store.category[rows]
        tagged = category >= 0
        if not tagged.any():
            return np.empty(0, np.int32)
        totals = np.bincount(category[tagged], weights[tagged])
        best = np.argsort(-totals, kind="stable")[:_FAVOURITES]
        return best[totals[best] > 0].astype(np.int32)

    async def _favourites(self, history: np.ndarray, deadline_ns: int, status: StatusPart) -> list[str]:
        """What a shopper likes, best first: kinds of products, or in a catalogue without any the nearest keywords."""
        if self.kinds.names:
            return self.kinds.favourites(history, _FAVOURITES, self.settings.half_life)
        vectors, _ = interests(self.store, history, self.settings.half_life, self.settings.interests)
        if not len(vectors):
            return []
        found = await self._found(self.nearest.keywords(vectors, 1, deadline_ns), status, whole=False)
        rows = found.rows.reshape(-1) if found is not None else np.empty(0, np.int32)
        return list(dict.fromkeys(self.store.keywords.take(rows[rows >= 0])))

    def _describe(
        self, history: np.ndarray, liked: list[str], session: tuple[str, ...], request: contract.Request
    ) -> str:
        """The shopper in LLM 1's words."""
        store, settings = self.store, self.settings
        brands = [store.brands[i] if i >= 0 else "" for i in store.brand[history].tolist()]
        season = (
            "" if settings.seasons == "none" else prompts.season_of(date.today(), southern=settings.seasons == "south")
        )
        return prompts.shopper_text(
            favourite_kinds=liked,
            due_kinds=self.kinds.due(history, _DUE),
            brands=prompts.favourites(brands, _BRANDS, settings.half_life),
            session=session,
            season=season,
            campaign=request.rules.campaign,
        )


def _kind(request: contract.Request) -> str:
    """Requests that cost about the same: stages do less in a short budget, and fewer placements are less work."""
    size = "search" if request.is_search else f"storefront {request.placements.bit_length()}"
    return f"{size} {request.budget_ms.bit_length()}"
