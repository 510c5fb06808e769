"""Fusion: blends ranker, relevance and rules into scores, and makes the page (P2: fusion and page-level AIQA)."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from endcap_server.declared.model import ModelDeclaration, tensor
from endcap_server.declared.parameters import ModelParameters
from endcap_server.declared.tensors import Tensors, bytes_tensor, json_tensor
from endcap_server.exposures.sink import ExposureSink
from endcap_server.shop import behaviour
from endcap_server.shop.facts import Facts, FactsNow, facts_folder
from endcap_server.shop.gates import is_installed
from endcap_server.shop.kinds import FILES as KINDS_FILES
from endcap_server.shop.kinds import Kinds
from endcap_server.shop.rule_index import RuleIndex
from endcap_server.shop.store import STORE_FILES, ItemStore
from endcap_server.stages import documents, first_cut, ranking
from endcap_server.stages.allowed import Allowed
from endcap_server.stages.base import Engines, Stage, StageAnswer
from endcap_server.stages.classic import classic_placements
from endcap_server.stages.documents import KeywordRows, PageRequest, PlacementSource, Themes
from endcap_server.stages.exposing import Shown, exposure_of, open_sink
from endcap_server.stages.fusion_parameters import FusionParameters, blend_weights
from endcap_server.stages.in_flight import table_of
from endcap_server.stages.page import MEASURED, SIGNALS, Pool, Shelf, fill
from endcap_server.stages.placements import Limits, Offer, PlacementCheck, choose_placements
from endcap_server.stages.pools import FreshShare, Products
from endcap_server.stages.ranking import Ranker
from endcap_server.stages.status import STATUS_TENSORS, StatusPart, part_of, read_versions, status_document
from endcap_server.stages.theme_products import of_keyword_category, of_named_kind
from endcap_server.stages.trial import Trial, is_shown

_NO_ROWS = np.empty(0, np.int32)


class FusionCheck(StrEnum):
    """What the quality checks of a page find."""

    PLACEMENT_EMPTY = PlacementCheck.EMPTY
    PLACEMENT_UNFIT = PlacementCheck.UNFIT
    PLACEMENT_NEAR_DUPLICATE = PlacementCheck.NEAR_DUPLICATE
    PLACEMENT_KEPT_TO_FILL = PlacementCheck.KEPT_TO_FILL
    PLACEMENT_SHORT = "placement_short"
    PLACEMENT_MISSING = "placement_missing"
    PLACEMENT_BELOW_FLOOR = "placement_below_floor"
    PIN_EXCLUDED = "pin_excluded"
    PIN_OUT_OF_STOCK = "pin_out_of_stock"
    PRODUCT_UNFIT = "product_unfit"
    PRODUCT_REPEATED = "product_repeated"
    TITLE_BANNED = "title_banned"


class FusionCause(StrEnum):
    """Why a page is degraded although no engine failed."""

    FACTS_STALE = "facts_stale"
    FACTS_UNREADABLE = "facts_unreadable"


@dataclass(frozen=True)
class Placed:
    """A placement that the page may show.

    Attributes:
        title: Its theme.
        source: Where it comes from.
        offer: Its products and what they are worth.
        keywords: Rows of its known keywords, -1 padded; none of a classic placement.
        order: Who ordered the keywords: "ranked" (LLM 2), "nearest", or "" without keywords.
    """

    title: str
    source: PlacementSource
    offer: Offer
    keywords: tuple[int, ...] = ()
    order: str = ""

    @property
    def said(self) -> dict[str, str]:
        """The placement in STATUS.placements."""
        return {"source": str(self.source), **({"keywords": self.order} if self.order else {})}


class Fusion(Stage):
    """The last stage of both ensembles."""

    declaration = ModelDeclaration(
        name="fusion",
        summary="Stage 5: ranker, relevance, rules, quality checks and diversity make the page.",
        inputs=(
            documents.THEMES,
            documents.KEYWORDS.as_optional(),
            documents.CANDIDATE_ROW.as_optional(),
            documents.CANDIDATE_SOURCE.as_optional(),
            documents.ROW,
            documents.MEASURED,
            documents.PAGE,
            documents.RERANK_STATUS,
        ),
        outputs=(
            tensor("THEME_OUT", "STRING", -1),
            tensor("KEYWORDS_OUT", "STRING", -1, -1),
            tensor("PRODUCT_ID", "STRING", -1, -1),
            tensor("SCORE", "FP32", -1, -1),
            tensor("SIGNALS", "FP32", -1, -1, -1),
            tensor("FIRST_PRODUCT_ID", "STRING", -1),
            tensor("FIRST_SCORE", "FP32", -1),
            tensor("FIRST_SIGNALS", "FP32", -1, -1),
            tensor("STATUS", "STRING", 1),
        ),
        parameters=FusionParameters,
        files=lambda settings: STORE_FILES,
        optional_files=(*ranking.FILES, *KINDS_FILES, *behaviour.FILES),
    )
    checks = FusionCheck
    causes = FusionCause
    settings: FusionParameters

    def __init__(self, build: Path, parameters: Mapping[str, str] | ModelParameters, engines: Engines, model: str = ""):
        super().__init__(build, parameters, engines, model)
        self.store = ItemStore.open(build)
        self.rule_index = RuleIndex(self.store)
        self.facts = Facts(self.store, facts_folder(build))
        self.kinds = Kinds.open(build, self.store)
        self.kind_popularity = self.kinds.popularity(self.store.popularity)
        self.ranker = Ranker.installed(build)
        judged = is_installed(build, "cross_encoder")
        self.weights = {search: blend_weights(self.settings.weights(search), judged) for search in (False, True)}
        self.unread = blend_weights(self.settings.weights(True), judged=False)
        self.versions = read_versions(build) | {"generation": str(self.settings.generation)}
        self.trial = Trial(self.run_folder)
        self.sink: ExposureSink | None = open_sink(self.settings)

    async def answer(self, inputs: Tensors) -> StageAnswer:
        """Answer the page (THEME_OUT to STATUS) and, for a search, its first placement alone (FIRST_...)."""
        status = self.status()
        page = PageRequest.read(inputs["PAGE"])
        try:
            return self._page(page, inputs, status)
        finally:
            with suppress(FileNotFoundError):
                table_of(self.run_folder, page.ticket.table).leave(page.ticket.deadline_ns)

    def exposure_counts(self) -> Mapping[str, int]:
        """Pages recorded so far, by outcome."""
        return self.sink.counts() if self.sink is not None else {}

    def close(self) -> None:
        """Write the exposures that wait."""
        if self.sink is not None:
            self.sink.close()

    def facts_age_s(self) -> float | None:
        """Age of the facts, in seconds; None without facts."""
        as_of = self.facts.now().as_of
        return None if as_of is None else max(0.0, time.time() - as_of)

    def carry(self, status: Mapping[str, Any], document: str) -> np.ndarray:
        """STATUS goes to callers, and nothing with it."""
        return json_tensor(status)

    def _page(self, page: PageRequest, inputs: Tensors, status: StatusPart) -> StageAnswer:
        facts = self.facts.now()
        standing = facts.standing_of(page.is_search)
        allowed = Allowed(facts, self.rule_index.compile(page.rules, standing.under))
        self._check_age(facts, status)
        themes = Themes.read(inputs["THEMES"])
        history = np.array(page.history, np.int32)
        pins = self._pins(allowed, status)
        leading = np.concatenate([pins, self._named(page, pins, allowed)])
        candidates = inputs.get("CANDIDATE_ROW", _NO_ROWS)
        rows = inputs["ROW"]
        asked = np.concatenate([rows[rows >= 0], leading, candidates])
        fresh = FreshShare(max(page.placements, 1) * page.products, 0.0 if page.is_search else self.settings.least_new)
        products = Products.of(asked, self.store, self.ranker, history, fresh, allowed, leading, status)
        placed = self._generated(page, themes, inputs, products, status)
        if not page.is_search:
            placed += self._classic(page, products, candidates, inputs.get("CANDIDATE_SOURCE", _NO_ROWS), history)
            allowed_titles = [each for each in placed if not standing.bans_title(each.title)]
            status.count(FusionCheck.TITLE_BANNED, len(placed) - len(allowed_titles))
            placed = [replace(each, title=standing.shown_title(each.title)) for each in allowed_titles]
        weights = self.weights[page.is_search]
        by_rule = (np.arange(len(leading)) < len(pins)).astype(np.float32)
        pinned = products.pool(products.members(leading), _measured(inputs, leading), weights, by_rule)
        limits = self.settings.limits(max(page.placements, 1), page.products)
        choice = choose_placements([each.offer for each in placed], limits)
        # A theme that LLM 1's spare did not fill is no placement.
        unused = 0 if page.is_search else sum(not title for title in themes.titles)
        for reason, number in choice.dropped.items():
            status.count(reason, number - (unused if reason is PlacementCheck.EMPTY else 0))
        shown = [placed[index] for index in choice.shown]
        if len(pinned.rows) and not shown:
            shown = placed[:1]
        shelves = self._fill([each.offer for each in shown], pinned, page, allowed.rules.max_per_brand, status)
        status.count(FusionCheck.PLACEMENT_SHORT, sum(len(shelf.rows) < limits.products for shelf in shelves))
        status.count(FusionCheck.PLACEMENT_MISSING, limits.placements - len(shelves))
        return self._tensors(inputs, page, shown, shelves, limits, facts, status)

    def _check_age(self, facts: FactsNow, status: StatusPart) -> None:
        """Report facts that are too old or cannot be read: what is sold out may then be shown."""
        if facts.problem:
            status.fall_back(f"facts: {facts.problem}", FusionCause.FACTS_UNREADABLE, whole=False)
        limit = self.settings.facts_stale_after_s
        if not limit:
            return
        if facts.as_of is None:
            status.fall_back("facts: none have come", FusionCause.FACTS_STALE, whole=False)
        elif (age := time.time() - facts.as_of) > limit:
            sentence = f"facts: {age:.0f} s old, more than {limit:g} s"
            status.fall_back(sentence, FusionCause.FACTS_STALE, whole=False)

    def _pins(self, allowed: Allowed, status: StatusPart) -> np.ndarray:
        """Rows of the pinned products that may be shown, in their order: int32 [k]."""
        asked = allowed.rules.pins
        sold_out = ~allowed.facts.in_stock[asked]
        pins: np.ndarray = asked[allowed.which(asked)]
        status.count(FusionCheck.PIN_OUT_OF_STOCK, int(sold_out.sum()))
        status.count(FusionCheck.PIN_EXCLUDED, len(asked) - len(pins) - int(sold_out.sum()))
        return pins

    def _named(self, page: PageRequest, pins: np.ndarray, allowed: Allowed) -> np.ndarray:
        """Rows of the products that a search names; they come right after the merchandiser's pins: int32 [k]."""
        named = np.setdiff1d(np.array(page.named, np.int32), pins)
        return named[allowed.which(named)]

    def _generated(
        self, page: PageRequest, themes: Themes, inputs: Tensors, products: Products, status: StatusPart
    ) -> list[Placed]:
        """The placements of the themes, with the products that rerank scored; of a search its query's only one."""
        given = inputs.get("KEYWORDS")
        keywords = KeywordRows(rows=((),) * len(themes.titles)) if given is None else KeywordRows.read(given)
        placed = []
        for index, (title, rows) in enumerate(zip(themes.titles, inputs["ROW"], strict=True)):
            places = np.flatnonzero(rows >= 0)
            members = products.members(rows[places])
            keep = products.shown[members]
            count = len(places)
            places, members = places[keep], members[keep]
            measured = _columns(inputs["MEASURED"][index][places])
            measured["retrieval"] = 1 - np.arange(count)[keep] / max(1, count)
            source = themes.source(index)
            answers_query = page.is_search or source is PlacementSource.SESSION
            shown_rows, about = products.rows[members], () if answers_query else themes.about(index)
            own_kind = of_named_kind(self.kinds, shown_rows, about)
            unread = self.unread if page.is_search else None
            pool = products.pool(members, measured, self.weights[answers_query], belongs=own_kind, unread=unread)
            pool.fit[:] = own_kind | self._fits(pool.signals, answers_query)
            if not answers_query:
                about_keywords = np.array(keywords.rows[index], np.int32)
                pool.fit[:] |= of_keyword_category(self.store, shown_rows, about_keywords)
            status.count(FusionCheck.PRODUCT_UNFIT, int((~pool.fit).sum()))
            value = products.value[members] if products.ranked else pool.score
            leads = answers_query or source is PlacementSource.REQUIRED
            offer = Offer(pool, value, leads, stands_in=source is PlacementSource.CATEGORY)
            placed.append(Placed(title, source, offer, keywords.rows[index], keywords.order(index)))
        return placed

    def _classic(
        self, page: PageRequest, products: Products, candidates: np.ndarray, sources: np.ndarray, history: np.ndarray
    ) -> list[Placed]:
        """Classic placements of the candidates, the most valuable products first; without a ranker in their order."""
        if not len(candidates) or len(sources) != len(candidates):
            return []
        members = products.members(candidates)
        keep = products.shown[members]
        members, sources = members[keep], sources[keep]
        order = np.linspace(1, 0, len(members), dtype=np.float32)
        value = products.value[members] if products.ranked else order
        found = classic_placements(
            products.rows[members], sources, value, history, self.kinds, self.kind_popularity, page.products
        )
        placed = []
        for each in found:
            own = members[each.members]
            pool = products.pool(own, {"retrieval": order[each.members]}, self.weights[False])
            # They are ordered by what they are worth alone: there is no theme to fit.
            best = value[each.members]
            ordered = Pool(pool.rows, pool.signals, best * products.factors[own], pool.fit, pool.vectors, pool.brand)
            worth = best if products.ranked else np.zeros(len(best), np.float32)
            placed.append(Placed(each.title, each.source, Offer(ordered, worth, classic=True)))
        return placed

    def _fits(self, signals: np.ndarray, answers_query: bool) -> np.ndarray:
        """Which products fit their theme or query: bool [m]; by relevance, without it by the cosine."""
        relevance, similarity = (signals[:, SIGNALS.index(name)] for name in ("relevance", "similarity"))
        fit: np.ndarray
        if answers_query:
            fit = ~(relevance < self.settings.search_relevance_floor)
            if self.settings.search_relevance_floor:
                # With a floor, what the cross-encoder did not read is not known to reach it.
                fit &= ~first_cut.unread(signals)
            return fit if fit.any() else np.ones(len(fit), bool)
        fit = ~(relevance < self.settings.relevance_floor)
        return fit & ~(np.isnan(relevance) & (similarity < self.settings.similarity_floor))

    def _fill(
        self, offers: Sequence[Offer], pins: Pool, page: PageRequest, rule_cap: int | None, status: StatusPart
    ) -> list[Shelf]:
        """The placements of a page, each product on one of them; pins lead the first one and go on in the next."""
        products = page.products
        cap = rule_cap or self.settings.max_per_brand or None
        weight = self.settings.search_diversity if page.is_search else self.settings.diversity
        shelves: list[Shelf] = []
        used = np.empty(0, np.int32)
        for place, offer in enumerate(offers):
            pool = offer.pool
            free = ~np.isin(pool.rows, used)
            status.count(FusionCheck.PRODUCT_REPEATED, int((pool.fit & ~free).sum()))
            fitting = pool.take(free & pool.fit)
            if not len(fitting.rows) and free.any():
                # A page with a gap is worse than a placement that fits its title badly, and STATUS says which it is.
                status.count(FusionCheck.PLACEMENT_BELOW_FLOOR)
                fitting = pool.take(free)
            leading = pins.take(np.arange(place * products, min((place + 1) * products, len(pins.rows))))
            # What is bought again, or by many, is often two of a kind.
            loss = 0.0 if offer.classic else weight
            shelf = fill(leading, fitting, products, loss, self.settings.diversity_threshold, cap)
            used = np.concatenate([used, shelf.rows])
            shelves.append(shelf)
        return shelves

    def _tensors(
        self,
        inputs: Tensors,
        page: PageRequest,
        shown: Sequence[Placed],
        shelves: Sequence[Shelf],
        limits: Limits,
        facts: FactsNow,
        status: StatusPart,
    ) -> StageAnswer:
        shape = (limits.placements, limits.products)
        rows = np.full(shape, -1, np.int32)
        score = np.zeros(shape, np.float32)
        signals = np.zeros((*shape, len(SIGNALS)), np.float32)
        for place, shelf in enumerate(shelves):
            rows[place, : len(shelf.rows)] = shelf.rows
            score[place, : len(shelf.rows)] = shelf.score
            # HTTP/JSON has no NaN: to callers an unknown signal is 0, and STATUS says which stage lacks it.
            signals[place, : len(shelf.rows)] = np.nan_to_num(shelf.signals)
        ids = [self.store.product_ids[row] if row >= 0 else "" for row in rows.reshape(-1).tolist()]
        product_id = bytes_tensor(ids, shape)
        # A search has the keywords of its query, and shows none.
        width = KeywordRows.read(inputs["KEYWORDS"]).width if "KEYWORDS" in inputs else 1
        chosen = np.full((limits.placements, width), -1, np.int32)
        for place, each in enumerate(shown):
            chosen[place, : len(each.keywords)] = each.keywords
        keywords = [self.store.keywords[row] if row >= 0 else "" for row in chosen.reshape(-1).tolist()]
        titles = [each.title for each in shown] + [""] * (limits.placements - len(shown))
        tensors = {
            "THEME_OUT": bytes_tensor(titles),
            "KEYWORDS_OUT": bytes_tensor(keywords, chosen.shape),
            "PRODUCT_ID": product_id,
            "SCORE": score,
            "SIGNALS": signals,
            "FIRST_PRODUCT_ID": product_id[0],
            "FIRST_SCORE": score[0],
            "FIRST_SIGNALS": signals[0],
        }
        given_parts = {name: part_of(inputs[tensor]) for name, tensor in STATUS_TENSORS.items() if tensor in inputs}
        parts = {name: part for name, part in given_parts.items() if part}
        trial = self.trial.document()
        page_id = uuid4().hex
        if self.sink is not None and is_shown(trial, self.settings.generation):
            said = [each.said for each in shown]
            self.sink.offer(
                exposure_of(page_id, page, self.settings.generation, parts, Shown(said, titles, keywords, ids, score))
            )

        def document() -> dict[str, Any]:
            whole = {"page_id": page_id} | status_document(parts, status, SIGNALS, self.versions, facts.as_of)
            if "KEYWORDS" in inputs:
                whole["placements"] = [each.said for each in shown]
            return whole | {"staging": trial} if trial else whole

        return StageAnswer(tensors, document)


def _columns(measured: np.ndarray) -> dict[str, np.ndarray]:
    """Rerank's figures by name: float32 [m] each, of float32 [m, 4]."""
    return {name: measured[:, column] for column, name in enumerate(MEASURED)}


def _measured(inputs: Tensors, pins: np.ndarray) -> dict[str, np.ndarray]:
    """Rerank's figures of pinned products that it happened to score, NaN of the others."""
    rows = inputs["ROW"].reshape(-1)
    matches = rows[None, :] == pins[:, None]
    scored = matches.any(axis=1)
    measured = np.full((len(pins), len(MEASURED)), np.nan, np.float32)
    if scored.any():
        measured[scored] = inputs["MEASURED"].reshape(-1, len(MEASURED))[matches[scored].argmax(axis=1)]
    return _columns(measured)
