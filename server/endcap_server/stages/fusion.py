"""Fusion: blends ranker, relevance and rules into scores, and makes the page (P2: fusion and page-level AIQA)."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from endcap_server.declared.model import ModelDeclaration, tensor
from endcap_server.declared.parameters import ModelParameters, SetBy
from endcap_server.declared.reasons import Cause
from endcap_server.declared.tensors import Tensors, bytes_tensor, json_tensor
from endcap_server.shop.rules import CompiledRules, RuleIndex
from endcap_server.shop.store import STORE_FILES, ItemStore
from endcap_server.stages import documents
from endcap_server.stages.base import Engines, Stage, StageAnswer
from endcap_server.stages.documents import KeywordRows, PageRequest, Themes
from endcap_server.stages.in_flight import table_of
from endcap_server.stages.page import (
    BLENDED,
    MEASURED,
    SIGNALS,
    PlacementCheck,
    Pool,
    Shelf,
    blend,
    choose_placements,
    fill,
)
from endcap_server.stages.ranking import Ranker
from endcap_server.stages.status import STATUS_TENSORS, StatusPart, part_of, read_versions, status_document
from endcap_server.stages.trial import Trial

RANKER = "ranker"
"""Named among the engines in STATUS and metrics, although it runs in the stage itself."""


def _weight(default: float, what: str, where: str) -> Any:
    return Field(default, ge=0, le=100, description=f"weight of {what} in the score of a {where}'s products")


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


class FusionParameters(ModelParameters):
    """Parameters of ``fusion/config.pbtxt``."""

    margin: float = _weight(0.25, "the cross-encoder's win share among the placement's products", "placement")
    relevance: float = _weight(0.20, "the cross-encoder's relevance", "placement")
    similarity: float = _weight(0.10, "the cosine of theme and product", "placement")
    lexical: float = _weight(0.0, "the match of words; searches alone measure it", "placement")
    ranker: float = _weight(0.35, "the traditional ranker, which knows the shopper,", "placement")
    popularity: float = _weight(0.05, "popularity", "placement")
    retrieval: float = _weight(0.05, "retrieval's order", "placement")
    search_margin: float = _weight(0.35, "the cross-encoder's win share among the found products", "search")
    search_relevance: float = _weight(0.35, "the cross-encoder's relevance", "search")
    search_similarity: float = _weight(0.15, "the cosine of query and product", "search")
    search_lexical: float = _weight(0.25, "the match of the query's words", "search")
    search_ranker: float = _weight(0.05, "the traditional ranker, which knows the shopper,", "search")
    search_popularity: float = _weight(0.02, "popularity", "search")
    search_retrieval: float = _weight(0.03, "retrieval's order", "search")
    diversity: float = Field(0.15, ge=0, le=10, description="what a twin of a product above it loses, in a placement")
    search_diversity: float = Field(0.0, ge=0, le=10, description="the same in a search")
    diversity_threshold: float = Field(0.6, ge=-1, lt=1, description="cosine from which products resemble each other")
    max_per_brand: int = Field(
        0, ge=0, le=1000, description="products of a brand in a placement, 0: any; rules override"
    )
    relevance_floor: float = Field(
        0.2, ge=0, le=1, description="least relevance of a product that fits its theme (AIQA)"
    )
    similarity_floor: float = Field(
        0.2,
        ge=-1,
        le=1,
        description="least cosine of one, where there is no relevance because the cross-encoder failed",
    )
    search_relevance_floor: float = Field(
        0.0, ge=0, le=1, description="least relevance of a found product; a search is never emptied by it"
    )
    least_products: int = Field(
        4, ge=1, le=100, description="products that fit, below which a placement is a last resort"
    )
    max_overlap: float = Field(0.5, gt=0, le=1, description="share of common products from which placements are alike")
    max_placement_similarity: float = Field(
        0.97, gt=0, le=1, description="cosine of the mean product vectors from which placements are alike"
    )
    order_weight: float = Field(
        0.02,
        ge=0,
        le=1,
        description="mean score by which a placement must be better to pass one that LLM 1 put earlier",
    )
    generation: Annotated[int, SetBy("endcap apply")] = Field(
        1, ge=1, description="number of the set of models that a page comes from, for STATUS; endcap apply sets it"
    )

    @model_validator(mode="after")
    def _something_counts(self) -> "FusionParameters":
        for prefix in ("", "search_"):
            if not any(self.weights(prefix == "search_")):
                raise ValueError(f"at least one {prefix}weight above 0")
        return self

    def weights(self, is_search: bool) -> np.ndarray:
        """Weights of the blended signals, float [7] in the order of SIGNALS."""
        prefix = "search_" if is_search else ""
        return np.array([getattr(self, prefix + name) for name in SIGNALS[:BLENDED]], np.float64)


class Fusion(Stage):
    """The last stage of both ensembles."""

    declaration = ModelDeclaration(
        name="fusion",
        summary="Stage 5: ranker, relevance, rules, quality checks and diversity make the page.",
        inputs=(
            documents.THEMES,
            documents.KEYWORDS.as_optional(),
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
        optional_files=("ranker/ranker.json", "ranker/model.txt"),
    )
    checks = FusionCheck
    settings: FusionParameters

    def __init__(self, build: Path, parameters: Mapping[str, str] | ModelParameters, engines: Engines, model: str = ""):
        super().__init__(build, parameters, engines, model)
        self.store = ItemStore.open(build)
        self.rule_index = RuleIndex(self.store)
        self.ranker = Ranker.open(build) if (build / "ranker").exists() else None
        self.versions = read_versions(build) | {"generation": str(self.settings.generation)}
        self.trial = Trial(self.run_folder)

    async def answer(self, inputs: Tensors) -> StageAnswer:
        """Answer the page (THEME_OUT to STATUS) and, for a search, its first placement alone (FIRST_...)."""
        status = self.status()
        page = PageRequest.read(inputs["PAGE"])
        try:
            return self._page(page, inputs, status)
        finally:
            with suppress(FileNotFoundError):
                table_of(self.run_folder, page.ticket.table).leave(page.ticket.deadline_ns)

    def carry(self, status: Mapping[str, Any], document: str) -> np.ndarray:
        """STATUS goes to callers, and nothing with it."""
        return json_tensor(status)

    def _page(self, page: PageRequest, inputs: Tensors, status: StatusPart) -> StageAnswer:
        is_search, placements, products = page.is_search, max(page.placements, 1), page.products
        compiled = self.rule_index.compile(page.rules)
        themes = Themes.read(inputs["THEMES"]).titles
        pools, pins = self._pools(page, inputs, compiled, status)
        choice = choose_placements(
            pools,
            len(pools) if is_search else min(len(page.rules.required_themes), len(pools)),
            placements,
            products,
            least_products=self.settings.least_products,
            max_overlap=self.settings.max_overlap,
            max_similarity=self.settings.max_placement_similarity,
            order_weight=self.settings.order_weight,
        )
        # A theme that LLM 1's spare did not fill is no placement.
        unused = 0 if is_search else sum(not theme for theme in themes)
        for reason, number in choice.dropped.items():
            status.count(reason, number - (unused if reason is PlacementCheck.EMPTY else 0))
        shown = choice.shown
        if len(pins.rows) and not shown:
            shown = [0]
        shelves = self._fill(pools, shown, pins, products, compiled.max_per_brand, is_search, status)
        status.count(FusionCheck.PLACEMENT_SHORT, sum(len(shelf.rows) < products for shelf in shelves))
        status.count(FusionCheck.PLACEMENT_MISSING, placements - len(shelves))
        return self._tensors(inputs, themes, shown, shelves, placements, products, status)

    def _pools(
        self, page: PageRequest, inputs: Tensors, rules: CompiledRules, status: StatusPart
    ) -> tuple[list[Pool], Pool]:
        """The products that may be shown, by placement, and those that lead: pinned ones in their order, named ones."""
        rows = inputs["ROW"]
        pins = rules.pins[rules.allowed(rules.pins)]
        status.count(FusionCheck.PIN_EXCLUDED, len(rules.pins) - len(pins))
        stocked = pins[self.store.in_stock[pins]]
        status.count(FusionCheck.PIN_OUT_OF_STOCK, len(pins) - len(stocked))
        # What a search names comes right after the merchandiser's pins.
        named = np.setdiff1d(np.array(page.named, np.int32), stocked)
        named = named[self.store.in_stock[named] & rules.allowed(named)]
        leading = np.concatenate([stocked, named])
        given = rows >= 0
        # Every product's own signals once, however many placements it is a candidate of.
        unique, member = np.unique(np.concatenate([rows[given], leading]), return_inverse=True)
        ranker = self._ranker_scores(np.array(page.history, np.int32), unique, status)
        popularity = self.store.popularity[unique].astype(np.float32)
        factors = rules.factors(unique)
        shown = self.store.in_stock[unique] & rules.allowed(unique) & ~np.isin(unique, leading)
        vectors = self.store.vectors[unique].astype(np.float32)
        brand = self.store.brand[unique]
        weights = self.settings.weights(page.is_search)

        def pool(members: np.ndarray, measured: Mapping[str, np.ndarray], pinned: Any) -> Pool:
            columns = {
                "margin": np.nan,
                "relevance": np.nan,
                "similarity": np.nan,
                "lexical": np.nan,
                "retrieval": np.nan,
                **measured,
                "ranker": ranker[members],
                "popularity": popularity[members],
                "rule": factors[members],
                "diversity": 0.0,
                "pinned": pinned,
            }
            signals = np.empty((len(members), len(SIGNALS)), np.float32)
            for column, name in enumerate(SIGNALS):
                signals[:, column] = columns[name]
            signals[:, :BLENDED] = np.clip(signals[:, :BLENDED], 0.0, 1.0)
            score = blend(signals, weights) * factors[members]
            fit = self._fits(signals, measured.get("similarity"), page.is_search)
            return Pool(unique[members].astype(np.int32), signals, score, fit, vectors[members], brand[members])

        pools, start = [], 0
        for index in range(len(rows)):
            places = np.flatnonzero(given[index])
            members = member[start : start + len(places)]
            start += len(places)
            keep = shown[members]
            places, members = places[keep], members[keep]
            measured = _columns(inputs["MEASURED"][index][places])
            measured["retrieval"] = 1 - np.arange(len(places)) / max(1, len(places))
            each = pool(members, measured, 0.0)
            status.count(FusionCheck.PRODUCT_UNFIT, int((~each.fit).sum()))
            pools.append(each)
        return pools, pool(member[start:], _measured(inputs, leading), np.arange(len(leading)) < len(stocked))

    def _ranker_scores(self, history: np.ndarray, rows: np.ndarray, status: StatusPart) -> np.ndarray:
        if self.ranker is None or not len(rows):
            return np.full(len(rows), np.nan, np.float32)
        try:
            return self.ranker.score(self.store, history, rows)
        except Exception as error:  # one signal of six: a page without it is better than none
            status.fall_back(f"ranker: {type(error).__name__}: {error}", Cause.FAILED, RANKER, whole=False)
            return np.full(len(rows), np.nan, np.float32)

    def _fits(self, signals: np.ndarray, similarity: np.ndarray | None, is_search: bool) -> np.ndarray:
        """Which products fit their theme or query: bool [m]; by relevance, without it by the cosine."""
        relevance = signals[:, SIGNALS.index("relevance")]
        if is_search:
            fit = ~(relevance < self.settings.search_relevance_floor)
            return fit if fit.any() else np.ones(len(fit), bool)
        fit = ~(relevance < self.settings.relevance_floor)
        if similarity is not None:
            fit &= ~(np.isnan(relevance) & (similarity < self.settings.similarity_floor))
        return fit

    def _fill(
        self,
        pools: list[Pool],
        shown: list[int],
        pins: Pool,
        products: int,
        rule_cap: int | None,
        is_search: bool,
        status: StatusPart,
    ) -> list[Shelf]:
        """The placements of a page, each product on one of them; pins lead the first one and go on in the next."""
        cap = rule_cap or self.settings.max_per_brand or None
        weight = self.settings.search_diversity if is_search else self.settings.diversity
        shelves: list[Shelf] = []
        used = np.empty(0, np.int32)
        for place, index in enumerate(shown):
            pool = pools[index]
            free = ~np.isin(pool.rows, used)
            status.count(FusionCheck.PRODUCT_REPEATED, int((pool.fit & ~free).sum()))
            fitting = pool.take(free & pool.fit)
            if not len(fitting.rows) and free.any():
                # A page with a gap is worse than a placement that fits its title badly, and STATUS says which it is.
                status.count(FusionCheck.PLACEMENT_BELOW_FLOOR)
                fitting = pool.take(free)
            leading = pins.take(np.arange(place * products, min((place + 1) * products, len(pins.rows))))
            shelf = fill(leading, fitting, products, weight, self.settings.diversity_threshold, cap)
            used = np.concatenate([used, shelf.rows])
            shelves.append(shelf)
        return shelves

    def _tensors(
        self,
        inputs: Tensors,
        themes: Sequence[str],
        shown: list[int],
        shelves: list[Shelf],
        placements: int,
        products: int,
        status: StatusPart,
    ) -> StageAnswer:
        rows = np.full((placements, products), -1, np.int32)
        score = np.zeros((placements, products), np.float32)
        signals = np.zeros((placements, products, len(SIGNALS)), np.float32)
        for place, shelf in enumerate(shelves):
            rows[place, : len(shelf.rows)] = shelf.rows
            score[place, : len(shelf.rows)] = shelf.score
            # HTTP/JSON has no NaN: to callers an unknown signal is 0, and STATUS says which stage lacks it.
            signals[place, : len(shelf.rows)] = np.nan_to_num(shelf.signals)
        ids = [self.store.product_ids[row] if row >= 0 else "" for row in rows.reshape(-1).tolist()]
        product_id = bytes_tensor(ids, rows.shape)
        # A search has the keywords of its query, and shows none.
        given = inputs.get("KEYWORDS")
        known = np.full((len(themes), 1), -1, np.int32) if given is None else KeywordRows.read(given).array
        chosen = np.full((placements, known.shape[1]), -1, np.int32)
        chosen[: len(shown)] = known[shown]
        keywords = [self.store.keywords[row] if row >= 0 else "" for row in chosen.reshape(-1).tolist()]
        titles = [themes[index] for index in shown] + [""] * (placements - len(shown))
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

        def document() -> dict[str, Any]:
            whole = status_document(parts, status, SIGNALS, self.versions)
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
