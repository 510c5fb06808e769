"""Rerank: chooses the pairs (theme or query, product) of a page and scores them with the cross-encoder (P1)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from endcap_server.declared.deadline import left_ms
from endcap_server.declared.errors import EngineError
from endcap_server.declared.model import ModelDeclaration
from endcap_server.declared.parameters import ModelParameters
from endcap_server.declared.tensors import Tensors, bytes_tensor
from endcap_server.shop import prompts
from endcap_server.shop.facts import Facts, facts_folder
from endcap_server.shop.gates import is_installed
from endcap_server.shop.kinds import FILES as KINDS_FILES
from endcap_server.shop.kinds import Kinds
from endcap_server.shop.postings import FILES as POSTINGS_FILES
from endcap_server.shop.postings import Postings
from endcap_server.shop.rule_index import RuleIndex
from endcap_server.shop.store import STORE_FILES, ItemStore
from endcap_server.shop.understanding import Understanding
from endcap_server.stages import documents, first_cut
from endcap_server.stages.allowed import Allowed, AllowedOf
from endcap_server.stages.base import Engines, Stage, StageAnswer
from endcap_server.stages.documents import AnsweredSearch, KeywordRows, PageRequest, PlacementSource, Themes
from endcap_server.stages.nearest_client import NearestClient
from endcap_server.stages.page import MEASURED
from endcap_server.stages.placement_scores import RETRIEVALS_ORDER, PlacementScores
from endcap_server.stages.posted_pairs import Placement
from endcap_server.stages.status import StatusPart
from endcap_server.stages.theme_products import of_keyword_category, of_named_kind


class RerankParameters(ModelParameters):
    """Parameters of ``rerank/config.pbtxt``."""

    pairs_per_placement: int = Field(40, ge=4, le=512, description="products of one placement that are scored, at most")
    search_pairs: int = Field(100, ge=4, le=1024, description="products of a search; more if more are asked for")
    search_cut: int = Field(
        30,
        ge=0,
        le=1024,
        description="how many of them the cross-encoder reads, the first by words and vectors; the others stay below"
        " these; 0: all",
    )
    personal_share: float = Field(
        0.9, ge=0, le=1, description="share of a placement's pairs for the shopper's own candidates near its theme"
    )
    personal_floor: float = Field(
        0.35, ge=-1, le=1, description="least cosine of such a candidate and the placement's keywords"
    )
    keyword_share: float = Field(
        0.25, ge=0, le=1, description="share of a search's pairs for products of the known keywords that say the same"
    )
    online_pairs: int = Field(
        16,
        ge=-1,
        le=4096,
        description="pairs of a page without a posting that the cross-encoder scores; the relevance of the others is "
        "estimated from similarity; 0: none; -1: it scores all pairs of a page, and no posting is read",
    )
    fusion_ms: float = Field(15.0, ge=0, le=1000, description="milliseconds of the budget left for fusion")


class Rerank(Stage):
    """The fourth stage of a storefront, the second of a search."""

    declaration = ModelDeclaration(
        name="rerank",
        summary="Stage 4: pairs of (theme or query, product) through the cross-encoder.",
        inputs=(
            documents.THEMES,
            documents.KEYWORDS,
            documents.CANDIDATE_ROW,
            documents.CANDIDATE_SIMILARITY.as_optional(),
            documents.CANDIDATE_LEXICAL.as_optional(),
            documents.PAGE,
        ),
        outputs=(documents.ROW, documents.MEASURED, documents.RERANK_STATUS),
        parameters=RerankParameters,
        calls=("nearest", "cross_encoder"),
        files=lambda settings: STORE_FILES,
        optional_files=("gates/gates.json", *KINDS_FILES, *POSTINGS_FILES),
    )
    settings: RerankParameters

    def __init__(self, build: Path, parameters: Mapping[str, str] | ModelParameters, engines: Engines, model: str = ""):
        super().__init__(build, parameters, engines, model)
        self.store = ItemStore.open(build)
        self.rule_index = RuleIndex(self.store)
        self.facts = Facts(self.store, facts_folder(build))
        self.installed = is_installed(build, "cross_encoder")
        self.allowed = AllowedOf()
        self.nearest = NearestClient(engines, len(self.store), len(self.store.keywords))
        self.understanding = Understanding.of(self.store)
        self.kinds = Kinds.open(build, self.store)
        used = self.installed and self.settings.online_pairs >= 0
        postings = Postings.open(build, self.store) if used else Postings.empty(len(self.store))
        self.scores = PlacementScores(
            self.store, self.kinds, postings, self.settings.online_pairs, self._score, self._similarity
        )

    async def answer(self, inputs: Tensors) -> StageAnswer:
        """Answer ROW [Q, M] in retrieval's order, -1 padded; MEASURED [Q, M, 4] (see `page.MEASURED`), NaN padded."""
        status = self.status()
        page = PageRequest.read(inputs["PAGE"])
        facts = self.facts.now()
        allowed = self.allowed(facts, self.rule_index.compile(page.rules, facts.standing_of(page.is_search).under))
        document, keyword_rows = Themes.read(inputs["THEMES"]), KeywordRows.read(inputs["KEYWORDS"]).array
        themes, answered = list(document.titles), _answered(document, page)
        # A short budget leaves fusion a share rather than nothing to the cross-encoder.
        left = left_ms(page.ticket.deadline_ns)
        deadline_ns = page.ticket.deadline_ns - int(min(self.settings.fusion_ms, max(left, 0) / 5) * 1e6)
        if page.is_search:
            lists = [self._search_rows(keyword_rows[0], inputs["CANDIDATE_ROW"], allowed, page.products)]
            texts = themes
        else:
            lists = await self._placement_rows(
                document, keyword_rows, inputs["CANDIDATE_ROW"], allowed, page.products, deadline_ns, status
            )
            texts = [
                prompts.placement_text(theme, self.store.keywords.take(row for row in keywords.tolist() if row >= 0))
                for theme, keywords in zip(themes, keyword_rows, strict=True)
            ]
            for index, search in answered.items():
                lists[index], texts[index] = list(search.rows), search.text
        rows = np.full((len(lists), max((len(each) for each in lists), default=0)), -1, np.int32)
        for index, each in enumerate(lists):
            rows[index, : len(each)] = each
        read = rows
        if page.is_search:
            read = np.where(first_cut.chosen(allowed.factors(rows[0]), self.settings.search_cut), rows, -1)
            relevance, margin = await self.scores.of_search(texts[0], read, deadline_ns, status)
            # The calibration holds for texts that the models know.
            relevance *= np.float32(self.understanding.relevance_factor(texts[0]))
            similarity, lexical = self._search_similarity(rows, keyword_rows[0], inputs)
        else:
            lexical = np.full(rows.shape, np.nan, np.float32)
            placements = [
                Placement(text, *self._compared_with(document, keyword_rows[index], index, answered))
                for index, text in enumerate(texts)
            ]
            relevance, margin, similarity = await self.scores(placements, rows, deadline_ns, status)
            for index, search in answered.items():
                relevance[index] *= np.float32(self.understanding.relevance_factor(search.text))
                similarity[index, : len(search.rows)] = search.similarity
                lexical[index, : len(search.rows)] = search.lexical
        status.extra["pairs"] = int((read >= 0).sum())
        figures = {"margin": margin, "relevance": relevance, "similarity": similarity, "lexical": lexical}
        measured = np.stack([figures[name] for name in MEASURED], axis=-1)
        return StageAnswer({"ROW": rows, "MEASURED": measured}, status.document)

    def _search_rows(
        self, keyword_rows: np.ndarray, candidates: np.ndarray, allowed: Allowed, products: int
    ) -> list[int]:
        """Products of a search: retrieval's candidates, every few of them one of the known keywords' products."""
        pairs = max(self.settings.search_pairs, products)
        of_keywords = self._of_keywords(keyword_rows, allowed)[: int(pairs * self.settings.keyword_share)]
        return mix(candidates.tolist(), of_keywords, self.settings.keyword_share, pairs)

    async def _placement_rows(
        self,
        document: Themes,
        keyword_rows: np.ndarray,
        candidates: np.ndarray,
        allowed: Allowed,
        products: int,
        deadline_ns: int,
        status: StatusPart,
    ) -> list[list[int]]:
        """Products of each placement: those of its keywords, mixed with the shopper's own candidates near them.

        A theme of whose keywords nothing, or too little, may be shown has the products nearest to its title besides.
        """
        settings, themes = self.settings, document.titles
        pairs = max(settings.pairs_per_placement, products)
        vectors = self.store.vectors[candidates].astype(np.float32)
        lists: list[list[int]] = []
        for index, (theme, keywords) in enumerate(zip(themes, keyword_rows, strict=True)):
            known = keywords[keywords >= 0]
            if not theme or not len(known):
                lists.append([])
                continue
            middle = self.store.keyword_vectors[known].astype(np.float32).mean(axis=0)
            middle /= max(float(np.linalg.norm(middle)), 1e-6)
            # What a shopper buys of the theme's own kinds and categories belongs to it, however its title is worded.
            own = of_named_kind(self.kinds, candidates, document.about(index))
            near = (vectors @ middle >= settings.personal_floor) | of_keyword_category(self.store, candidates, known)
            personal = [*candidates[own].tolist(), *candidates[near & ~own].tolist()]
            lists.append(mix(self._of_keywords(known, allowed), personal, settings.personal_share, pairs))
        if short := [index for index, theme in enumerate(themes) if theme and len(lists[index]) < products]:
            near = await self._near([themes[index] for index in short], pairs, allowed, deadline_ns, status)
            for index, rows in zip(short, near, strict=True):
                lists[index] = list(dict.fromkeys([*lists[index], *rows[rows >= 0].tolist()]))[:pairs]
                lists[index] = lists[index] or candidates[:pairs].tolist()
        return lists

    def _compared_with(
        self, document: Themes, keyword_rows: np.ndarray, index: int, answered: Mapping[int, AnsweredSearch]
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Keywords, and named kinds (position -> name), of a theme; a search of the session may be a known keyword."""
        if index in answered:
            return self.scores.keyword_of(answered[index].text), {}
        kinds = {kind: self.kinds.names[kind] for kind in self.kinds.named(document.about(index))}
        return keyword_rows[keyword_rows >= 0], kinds

    def _of_keywords(self, keyword_rows: np.ndarray, allowed: Allowed) -> list[int]:
        """The products of keywords that may be shown, best of each keyword first, without repetitions."""
        rows = self.store.keyword_products[keyword_rows[keyword_rows >= 0]].T.reshape(-1)
        _, first = np.unique(rows, return_index=True)
        return allowed.among(rows[np.sort(first)]).tolist()

    async def _near(
        self, themes: Sequence[str], count: int, allowed: Allowed, deadline_ns: int, status: StatusPart
    ) -> np.ndarray:
        """Products nearest to the themes: int32 [T, K]; empty when the engine fails."""
        try:
            return (await self.nearest.products(themes, count, deadline_ns, allowed.bits)).rows
        except EngineError as error:
            status.fall_back_on(error, "themes without keywords have the shopper's candidates ({error})", whole=False)
            return np.full((len(themes), 0), -1, np.int32)

    async def _score(
        self,
        texts: Sequence[str],
        rows: np.ndarray,
        deadline_ns: int,
        status: StatusPart,
        sentence: str = RETRIEVALS_ORDER,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Relevance and margin float32 [Q, M] by the cross-encoder; NaN, and ``status`` says so, when it fails.

        ``sentence`` says what follows from that.
        """
        relevance, margin = np.full(rows.shape, np.nan, np.float32), np.full(rows.shape, np.nan, np.float32)
        asked = np.flatnonzero((rows >= 0).any(axis=1)) if rows.size else np.empty(0, np.int64)
        if not len(asked) or not self.installed:
            return relevance, margin
        inputs = {"TEXT": bytes_tensor([texts[index] for index in asked.tolist()]), "ROW": rows[asked]}
        try:
            answer = await self.engines.call("cross_encoder", inputs, deadline_ns, ("SCORE", "MARGIN"))
        except EngineError as error:
            status.fall_back_on(error, sentence)
            return relevance, margin
        relevance[asked], margin[asked] = answer["SCORE"], answer["MARGIN"]
        return relevance, margin

    async def _similarity(
        self, texts: Sequence[str], rows: np.ndarray, deadline_ns: int, status: StatusPart
    ) -> np.ndarray:
        """Cosine of each placement's text and its products: float32 [Q, M]; NaN when the engine fails."""
        similarity = np.full(rows.shape, np.nan, np.float32)
        asked = np.flatnonzero((rows >= 0).any(axis=1)) if rows.size else np.empty(0, np.int64)
        if not len(asked):
            return similarity
        try:
            vectors = await self.nearest.encode([texts[index] for index in asked.tolist()], deadline_ns)
        except EngineError as error:
            status.fall_back_on(error, "no similarity ({error})", whole=False)
            return similarity
        for index, vector in zip(asked.tolist(), vectors, strict=True):
            given = rows[index] >= 0
            similarity[index, given] = self.store.vectors[rows[index, given]].astype(np.float32) @ vector
        return similarity

    def _search_similarity(
        self, rows: np.ndarray, keyword_rows: np.ndarray, inputs: Tensors
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cosine and match of words of the query and its products: float32 [1, M] each, retrieval's.

        A product that only a known keyword found has the keyword's cosine, and no words in common that count.
        """
        similarity, lexical = np.full(rows.shape, np.nan, np.float32), np.full(rows.shape, np.nan, np.float32)
        given = rows >= 0
        place, found = _places(inputs["CANDIDATE_ROW"], rows[given])
        values, words = np.full(len(place), np.nan, np.float32), np.zeros(len(place), np.float32)
        values[found] = inputs["CANDIDATE_SIMILARITY"][place[found]]
        words[found] = inputs["CANDIDATE_LEXICAL"][place[found]]
        known = keyword_rows[keyword_rows >= 0]
        if len(known) and not found.all():
            of_keywords = self.store.keyword_vectors[known].astype(np.float32)
            products = self.store.vectors[rows[given][~found]].astype(np.float32)
            values[~found] = (products @ of_keywords.T).max(axis=1)
        similarity[given], lexical[given] = values, words
        return similarity, lexical


def _answered(themes: Themes, page: PageRequest) -> dict[int, AnsweredSearch]:
    """The searches of the session that themes answer, by the theme's position."""
    searches = {search.text: search for search in page.searches}
    return {
        index: searches[concepts[0]]
        for index, concepts in enumerate(themes.concepts)
        if themes.source(index) is PlacementSource.SESSION and concepts and concepts[0] in searches
    }


def _places(values: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each of ``wanted`` stands in distinct ``values``: int64 [k], and bool [k] whether it does."""
    if not len(values):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    order = np.argsort(values, kind="stable")
    place = order[np.minimum(np.searchsorted(values, wanted, sorter=order), len(values) - 1)]
    return place, values[place] == wanted


def mix(first: Sequence[int], second: Sequence[int], share: float, count: int) -> list[int]:
    """Interleave two lists, about ``share`` of the result from the second, without repetitions; at most ``count``.

    When one list ends the other goes on, so that no place stays empty.
    """
    places = np.arange(1, max(len(first), len(second), 1) + 1, dtype=np.float64)
    keys = [(key, row) for key, row in zip(places / max(1 - share, 1e-6), first, strict=False)]
    keys += [(key, row) for key, row in zip(places / max(share, 1e-6), second, strict=False)]
    keys.sort(key=lambda item: item[0])
    return list(dict.fromkeys(int(row) for _, row in keys))[:count]
