"""Retrieval: reads the request, finds candidate products, describes the shopper, and splits the budget.

A storefront's candidates come from several sources (`endcap_server.stages.sources`): what the shopper buys again, what
goes with it, what sells now, and what is near to a few query vectors: one vector per recent interest (the history by
category, weighted by recency) and one per search of the session, blended with what in the history resembles it. A
search's candidates come from the query alone, so that every shopper finds the same products; the history reaches the
ranker.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from endcap_server.declared.deadline import after_ms, left_ms
from endcap_server.declared.errors import OverloadError
from endcap_server.declared.model import ModelDeclaration, tensor
from endcap_server.declared.parameters import ModelParameters
from endcap_server.declared.reasons import Source
from endcap_server.declared.tensors import Tensors
from endcap_server.exposures.record import ShopperKeys
from endcap_server.prepared.page import history_digests, search_digests
from endcap_server.shop import behaviour, kinds, prompts
from endcap_server.shop.behaviour import Behaviour
from endcap_server.shop.exclusion import Exclusions
from endcap_server.shop.facts import Facts, facts_folder
from endcap_server.shop.rule_index import CompiledRules, RuleIndex
from endcap_server.shop.store import STORE_FILES, ItemStore
from endcap_server.shop.understanding import Understanding
from endcap_server.stages import contract, documents, ranking
from endcap_server.stages.admission import Admission, Refusal
from endcap_server.stages.allowed import Allowed, AllowedOf
from endcap_server.stages.answer_cache import Recent
from endcap_server.stages.base import Engines, Stage, StageAnswer
from endcap_server.stages.candidates import Found, popular_rows
from endcap_server.stages.description import Description
from endcap_server.stages.documents import AnsweredSearch, KeywordRows, PageRequest, ThemeRequest, Themes, Ticket
from endcap_server.stages.expected_purchases import ExpectedPurchases
from endcap_server.stages.in_flight import InFlight
from endcap_server.stages.nearest_client import NearestClient
from endcap_server.stages.ranking import Ranker
from endcap_server.stages.recorder import Recorder
from endcap_server.stages.retrieval_parameters import RetrievalParameters
from endcap_server.stages.run_folder import DRAINING
from endcap_server.stages.search_candidates import SearchCandidates
from endcap_server.stages.shopper_candidates import ShopperCandidates
from endcap_server.stages.sources import ShopperSources
from endcap_server.stages.status import StatusPart

_IDS_AT_ONCE = 1024


class RetrievalCheck(StrEnum):
    """What of a session is left out before candidates are looked for, or quoted nowhere."""

    SESSION_EXCLUDED = "session_excluded"
    SESSION_NOT_QUOTED = "session_not_quoted"


@dataclass(frozen=True)
class _Sought:
    """What retrieval finds for a search or a shopper.

    Attributes:
        found: Candidates.
        sources: uint8 [C], bits of `CandidateSource` of each.
        keywords: int32 [K], known keywords that a search is matched to, -1 padded.
        shopper: The shopper text for LLM 1, "" for a search.
        categories: Positions of the shopper's categories, best first.
        searches: Answers to the session's searches.
        counts: What checks counted.
    """

    found: Found
    sources: np.ndarray
    keywords: np.ndarray
    shopper: str = ""
    categories: tuple[int, ...] = ()
    searches: tuple[AnsweredSearch, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


class Retrieval(Stage):
    """The first stage of both ensembles."""

    declaration = ModelDeclaration(
        name="retrieval",
        summary="Stage 1: validates the request, looks the shopper up, finds candidate products, splits the budget.",
        inputs=(
            tensor("SHOPPER", "STRING", 1, optional=True),
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
        optional_files=(*kinds.FILES, *behaviour.FILES, *ranking.FILES),
        ordered=(("default_budget_ms", "max_budget_ms"),),
    )
    # Without QUERY, Triton would report a deadlock of the ensemble: its tensor is optional there, and required here.
    requires: ClassVar = {"QUERY_THEMES": ("QUERY", "exactly 1 text of 1 to 512 characters")}
    sources = (Source.COMPUTED, Source.CACHED, Source.FALLBACK)
    checks = RetrievalCheck
    refusals = Refusal
    settings: RetrievalParameters

    def __init__(self, build: Path, parameters: Mapping[str, str] | ModelParameters, engines: Engines, model: str = ""):
        super().__init__(build, parameters, engines, model)
        self.store = ItemStore.open(build)
        self.rule_index = RuleIndex(self.store)
        self.facts = Facts(self.store, facts_folder(build))
        self.allowed = AllowedOf()
        self.exclusions = Exclusions(self.store)
        self.understanding = Understanding.of(self.store)
        self.admission = Admission(
            InFlight(self.run_folder, self.model),
            self.settings.max_in_flight,
            self.settings.min_in_flight,
            self.settings.admission_share,
        )
        self._draining = self.run_folder / DRAINING
        self.shopper_keys = ShopperKeys.configured()
        self.recent: Recent[_Sought] = Recent(self.settings.cached_shoppers)
        self.recorder = Recorder(self.run_folder, self.model, self.settings.recorded_requests)
        nearest = NearestClient(engines, len(self.store), len(self.store.keywords))
        popular = popular_rows(self.store)
        sources = ShopperSources(self.store, Behaviour.open(build, self.store))
        self.searches = SearchCandidates(self.store, nearest, popular, self.settings)
        self.candidates = ShopperCandidates(self.store, nearest, sources, popular, self.settings)
        self.purchases = ExpectedPurchases(self.store, Ranker.installed(build))
        self.description = Description(self.store, kinds.Kinds.open(build, self.store), nearest, self.settings)

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
        facts = self.facts.now()
        standing = facts.standing_of(request.is_search)
        rules = self.rule_index.compile(request.rules, standing.under)
        allowed = self.allowed(facts, rules)
        own_deadline_ns = status.started_ns + int(request.budget_ms * self.settings.retrieval_share * 1e6)

        if request.is_search:
            sought = await self._search(request, allowed, own_deadline_ns, status)
        else:
            content = _content(request, history, facts.epoch)
            recent = self.recent.get(content)
            if recent is not None:
                sought, status.source, status.aiqa = recent, Source.CACHED, dict(recent.counts)
            else:
                sought = await self._shopper(request, history, rules, allowed, own_deadline_ns, status)
                if status.can_be_kept and not status.reasons:
                    self.recent.put(content, replace(sought, counts=dict(status.aiqa)))

        placements = 0 if request.is_search else request.placements
        ticket = self._ticket(request, deadline_ns)
        status.extra |= {
            "budget_ms": request.budget_ms,
            "unknown_ids": unknown + rules.unknown_products,
            "unknown_rules": [*rules.unknown, *allowed.unknown_columns][:20],
            "known_history": len(history),
            "candidates": len(sought.found.rows),
        }
        page = PageRequest(
            ticket=ticket,
            placements=placements,
            products=request.products,
            rules=request.rules,
            history=tuple(history.tolist()),
            named=tuple(sought.found.rows[sought.found.named].tolist()),
            searches=sought.searches,
        )
        themes = ThemeRequest(
            ticket=ticket,
            shopper=sought.shopper,
            placements=placements,
            rules={} if request.is_search else rules.of_themes,
            categories=sought.categories,
            searches=tuple(search.text for search in sought.searches),
        )
        return StageAnswer(
            {
                "CANDIDATE_ROW": sought.found.rows,
                "CANDIDATE_SOURCE": sought.sources,
                "CANDIDATE_SIMILARITY": sought.found.similarity,
                "CANDIDATE_LEXICAL": sought.found.lexical,
                "THEME_REQUEST": themes.tensor(),
                "QUERY_THEMES": Themes(titles=(request.query or "",)).tensor(),
                "QUERY_KEYWORDS": KeywordRows.of(sought.keywords.reshape(1, -1)).tensor(),
            },
            status.document,
            page.json_text(),
        )

    async def _search(
        self, request: contract.Request, allowed: Allowed, deadline_ns: int, status: StatusPart
    ) -> "_Sought":
        query = request.query or ""
        status.extra["not_understood"] = self.understanding.doubt(query)
        found, keywords = await self.searches.search(query, request.products, allowed, deadline_ns, status)
        return _Sought(found, found.sources, keywords=keywords)

    async def _shopper(
        self,
        request: contract.Request,
        history: np.ndarray,
        rules: CompiledRules,
        allowed: Allowed,
        deadline_ns: int,
        status: StatusPart,
    ) -> "_Sought":
        # What is excluded is no interest to write themes about either; the ranker still knows the whole history.
        taken = history[rules.allowed(history)]
        session = self._session(request.session, rules.of_themes, status)
        quotable = tuple(text for text in session if prompts.is_quotable(text))
        status.count(RetrievalCheck.SESSION_NOT_QUOTED, len(session) - len(quotable))
        candidates, liked, searches = await asyncio.gather(
            self.candidates.find(taken, session, allowed, deadline_ns, status),
            self.description.favourites(taken, deadline_ns, status),
            self.searches.answer(quotable, request.products, allowed, deadline_ns, status),
        )
        candidates, worth = self.purchases.order(candidates, history, status)
        following: list[str] = []
        if worth is not None:
            likely, following = self.description.likely(candidates, worth, taken, request.products)
            liked = list(dict.fromkeys([*likely, *liked]))[: prompts.MAX_FAVOURITES]
        return _Sought(
            found=Found.of(candidates.rows, candidates.similarity),
            sources=candidates.sources,
            shopper=self.description.text(taken, liked, following, quotable, request),
            categories=tuple(self.description.categories(taken, candidates).tolist()),
            searches=searches,
            keywords=np.full(self.settings.search_keywords, -1, np.int32),
        )

    def _session(self, session: tuple[str, ...], rules: Mapping[str, Any], status: StatusPart) -> tuple[str, ...]:
        """The texts of the session that do not ask for what is excluded."""
        excluded = self.exclusions.of(rules)
        if excluded is None:
            return session
        kept = tuple(text for text in session if not excluded.names(text))
        status.count(RetrievalCheck.SESSION_EXCLUDED, len(session) - len(kept))
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

    def _ticket(self, request: contract.Request, deadline_ns: int) -> Ticket:
        """The request's ticket, with what tells how far the shopper has moved on.

        Theme and keywords have their shares, of less where retrieval took more than its own. What theme does not need
        of its share, keywords may use.
        """
        settings = self.settings
        later = 1 - settings.retrieval_share
        shopper = self.shopper_keys.hashed(request.shopper)
        base_ms = min(float(request.budget_ms), max(0.0, left_ms(deadline_ns)) / later)
        return Ticket(
            table=self.model,
            deadline_ns=deadline_ns,
            theme_ns=after_ms(base_ms * settings.theme_share),
            keywords_ns=after_ms(base_ms * (settings.theme_share + settings.keywords_share)),
            shopper=shopper,
            histories=history_digests(request.history) if shopper and not request.is_search else (),
            searches=search_digests(request.session) if shopper else (),
        )


def _kind(request: contract.Request) -> str:
    """Requests that cost about the same: stages do less in a short budget, and fewer placements are less work."""
    size = "search" if request.is_search else f"storefront {request.placements.bit_length()}"
    return f"{size} {request.budget_ms.bit_length()}"


def _content(request: contract.Request, history: np.ndarray, epoch: int) -> bytes:
    """All that determines what is found for a shopper: the request, the facts, and the season."""
    parts = (epoch, date.today().isoformat(), request.products, request.session, request.rules.model_dump_json())
    return repr(parts).encode() + history.tobytes()
