"""Theme: LLM 1 writes the page's themes, quality checks (AIQA, P2) drop what may not be shown, categories fill gaps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from endcap_server.declared.deadline import after_ms, left_ms
from endcap_server.declared.errors import EngineError
from endcap_server.declared.model import ModelDeclaration
from endcap_server.declared.parameters import ModelParameters
from endcap_server.declared.reasons import Cause, Source
from endcap_server.declared.tensors import Tensors, bytes_tensor, texts_of
from endcap_server.shop import prompts
from endcap_server.shop.exclusion import BEST_PRODUCTS, MOSTLY, ExcludedNames, Exclusions
from endcap_server.shop.facts import Facts, facts_folder
from endcap_server.shop.gates import is_installed
from endcap_server.shop.grammar import theme_grammar
from endcap_server.shop.prompts import MalformedAnswer, ThemeDraft
from endcap_server.shop.rules import OF_NAMES
from endcap_server.shop.standing_rules import Standing
from endcap_server.shop.store import STORE_FILES, ItemStore
from endcap_server.shop.title_checks import title_overlap
from endcap_server.stages import documents, theme_checks
from endcap_server.stages.answer_cache import AnswerCache, CachedAnswer
from endcap_server.stages.base import Engines, Stage, StageAnswer
from endcap_server.stages.category_themes import CategoryThemes
from endcap_server.stages.documents import (
    PlacementSource,
    ThemeRequest,
    Themes,
    content_and_ticket,
    with_ticket,
)
from endcap_server.stages.nearest_client import NearestClient
from endcap_server.stages.prepared_themes import Prepared, PreparedResult, PreparedThemes
from endcap_server.stages.status import StatusPart
from endcap_server.stages.theme_parameters import ThemeCause, ThemeCheck, ThemeParameters


class Theme(Stage):
    """The second stage of the storefront; it keeps complete answers for requests that ask for the same."""

    declaration = ModelDeclaration(
        name="theme",
        summary="Stage 2: LLM 1 writes the themes of the page; checks drop what may not be shown.",
        inputs=(documents.THEME_REQUEST,),
        outputs=(documents.THEMES,),
        parameters=ThemeParameters,
        calls=("theme_llm", "nearest"),
        files=lambda settings: STORE_FILES,
        optional_files=(*theme_checks.FILES, "gates/gates.json"),
        ordered=(("min_title", "max_title"),),
        reserve=("checks_ms", "theme_share"),
    )
    sources = (Source.GENERATED, Source.PREPARED, Source.CACHED, Source.FALLBACK)
    checks = ThemeCheck
    causes = ThemeCause
    settings: ThemeParameters

    def __init__(self, build: Path, parameters: Mapping[str, str] | ModelParameters, engines: Engines, model: str = ""):
        super().__init__(build, parameters, engines, model)
        store = ItemStore.open(build)
        self.facts = Facts(store, facts_folder(build))
        self.quality = theme_checks.ThemeChecks(build, store, self.settings)
        self.categories = CategoryThemes(store)
        self.installed = is_installed(build, "theme_llm")
        self.exclusions = Exclusions(store)
        self.nearest = NearestClient(engines, len(store), len(store.keywords))
        self.cache = AnswerCache(self.settings.cache_entries, self.settings.cache_ttl_s)
        self.prepared = PreparedThemes(build, store, self.settings)

    def recall(self, inputs: Tensors) -> StageAnswer | None:
        """Themes that were generated for an equal request, unless the shopper may have prepared ones."""
        content, ticket = content_and_ticket(inputs["THEME_REQUEST"])
        if self.prepared.asked(ticket):
            return None
        return self._known(content, ticket)

    def close(self) -> None:
        """Close the store of prepared pages."""
        self.prepared.close()

    def _known(self, content: bytes, ticket: str, result: PreparedResult | None = None) -> StageAnswer | None:
        """The kept answer with the ticket of this request, and what came of the look for a prepared one."""
        known = self.cache.get(content)
        if known is None:
            return None
        standing = self.facts.now().standing
        if standing.banned_titles and any(map(standing.bans_title, Themes.read_text(known.document).titles)):
            return None
        said = {"prepared": result} if result else {}
        status = self.status(Source.CACHED, {**known.status, **said})
        return StageAnswer({}, status.document, with_ticket(known.document, ticket))

    async def answer(self, inputs: Tensors) -> StageAnswer:
        """Answer THEMES of Q = P + spare themes, required ones first, padded with empty ones."""
        content, ticket = content_and_ticket(inputs["THEME_REQUEST"])
        request = ThemeRequest.read(inputs["THEME_REQUEST"])
        result: PreparedResult | None = None
        if self.prepared.asked(ticket):
            found = await self.prepared.find(request)
            if isinstance(found, Prepared):
                status = self.status(Source.PREPARED, {"prepared": PreparedResult.TAKEN, "prepared_age_s": found.age_s})
                themes, complete = await self._page(request, status, found)
                if complete:
                    return StageAnswer({}, status.document, with_ticket(themes.json_text(), ticket))
                found = PreparedResult.REFUSED
            result = found
            if (known := self._known(content, ticket, result)) is not None:
                return known
        status = self.status(Source.GENERATED)
        themes, complete = await self._page(request, status)
        text = themes.json_text()
        if complete and status.can_be_kept:
            self.cache.put(content, CachedAnswer(text, status.lasting))
        if result is not None:
            # Not kept: another shopper may get the answer.
            status.extra["prepared"] = result
        return StageAnswer({}, status.document, with_ticket(text, ticket))

    async def _page(
        self, request: ThemeRequest, status: StatusPart, prepared: Prepared | None = None
    ) -> tuple[Themes, bool]:
        """The themes of a page, of prepared ones or of LLM 1's; and whether they are all that there should be."""
        deadline_ns, shopper, placements = request.ticket.theme_ns, request.shopper, request.placements
        wanted = placements + self.settings.spare
        standing = self.facts.now().standing
        required = [title for title in request.rules.get("required_themes", ()) if not standing.bans_title(title)]
        banned = len(request.rules.get("required_themes", ())) - len(required)
        status.count(ThemeCheck.REQUIRED_THEME_BANNED, banned)
        if len(required) > placements:
            status.count(ThemeCheck.REQUIRED_THEME_WITHOUT_PLACE, len(required) - placements)
            required = required[:placements]

        excluded = self.exclusions.of(request.rules)
        if prepared is not None:
            drafts, complete = [*(ThemeDraft(title, ()) for title in required), *prepared.drafts], True
        else:
            drafts, complete = await self._generate(shopper, wanted, required, deadline_ns, status)
        themes = self.quality.required(required, drafts, excluded, status)
        checked = (self.quality.check(draft, shopper, excluded, standing, status) for draft in drafts[len(required) :])
        written = [draft for draft in checked if draft]
        searches = [text for text in request.searches if prompts.plain_words(text)][: placements - len(required)]
        fresh = [*self._of_searches(searches, written, shopper, excluded, standing, status), *written]
        if prepared is not None and excluded is None and not required and len(fresh) == len(written):
            # Their vectors were compared when they were prepared.
            vectors, about = None, np.zeros(len(fresh), bool)
        else:
            vectors, about = await self._vectors([*themes, *fresh], excluded, deadline_ns, status)
        if about[len(required) :].any():
            status.count(ThemeCheck.THEME_EXCLUDED, int(about[len(required) :].sum()))
            kept = np.flatnonzero(~about | (np.arange(len(about)) < len(required)))
            fresh = [fresh[index - len(required)] for index in kept[len(required) :].tolist()]
            vectors = None if vectors is None else vectors[kept]
        themes = self._distinct([*themes, *fresh], len(required), vectors, status)
        generated = len(themes) if drafts else 0
        themes, answered = _searches_first(themes, len(required), searches)
        # LLM 1's spare theme may go to the checks; categories stand in for what the page itself would lack.
        least = placements if drafts else wanted
        filling = self._fill(themes, least - len(themes), request.categories, excluded, standing)
        themes += filling
        origin = "generated" if prepared is None else "prepared"
        status.extra |= {f"{origin}_themes": generated, "category_themes": len(filling)}
        if filling and drafts:
            sentence = f"{len(filling)} of {len(themes)} themes are categories"
            status.fall_back(sentence, ThemeCause.TOO_FEW, whole=generated == 0, again=complete)
        sources = [PlacementSource.REQUIRED] * len(required) + [PlacementSource.SESSION] * answered
        written_by = PlacementSource.GENERATED if prepared is None else PlacementSource.PREPARED
        sources += [written_by] * (len(themes) - len(filling) - len(sources))
        sources += [PlacementSource.CATEGORY] * len(filling)
        themes = themes[:wanted] + [ThemeDraft("", ())] * (wanted - len(themes))
        found = Themes(
            titles=tuple(theme.title for theme in themes),
            concepts=tuple(theme.concepts[: theme_checks.MAX_CONCEPTS] for theme in themes),
            sources=tuple(sources[:wanted]) + (PlacementSource.GENERATED,) * (wanted - len(sources)),
            keywords=() if prepared is None else tuple(map(prepared.rows, themes)),
            ranked=() if prepared is None else tuple(theme.title in prepared.ranked for theme in themes),
            rules={name: request.rules[name] for name in OF_NAMES if name in request.rules},
        )
        return found, complete and (prepared is None or not filling)

    async def _generate(
        self, shopper: str, wanted: int, required: Sequence[str], deadline_ns: int, status: StatusPart
    ) -> tuple[list[ThemeDraft], bool]:
        """What LLM 1 writes, and whether that is all; nothing, said in ``status``, when it could not."""
        if not self.installed:
            # The build found that categories do better: nothing failed.
            status.source = Source.COMPUTED
            return [], True
        llm_deadline_ns = deadline_ns - int(self.settings.checks_ms * 1e6)
        if left_ms(llm_deadline_ns) <= 0:
            status.fall_back("theme_llm: the budget leaves it no time", Cause.NO_TIME, "theme_llm")
            return [], False
        # A required title that a prompt cannot hold is not asked for; an empty draft keeps its place.
        askable = [index for index, title in enumerate(required) if prompts.clean(title, prompts.TITLE_CHARACTERS)]
        inputs = {
            "PROMPT": bytes_tensor([prompts.theme_prompt(shopper, wanted)]),
            "GRAMMAR": bytes_tensor([theme_grammar(wanted, [required[index] for index in askable], shopper)]),
            "MAX_TOKENS": np.array([self.settings.tokens_per_theme * wanted], np.int32),
        }
        try:
            answer = await self.engines.call("theme_llm", inputs, llm_deadline_ns, ("TEXT", "FINISH"))
            drafts = prompts.parse_themes(texts_of(answer["TEXT"])[0], shopper)
        except MalformedAnswer as error:
            status.count(ThemeCheck.MALFORMED_ANSWER)
            status.fall_back(f"theme_llm: {error}", Cause.FAILED, "theme_llm")
            return [], False
        except EngineError as error:
            status.fall_back_on(error)
            return [], False
        if not drafts:
            status.fall_back("theme_llm: no theme was complete in time", Cause.LATE, "theme_llm")
            return [], False
        by_place = dict(zip(askable, drafts, strict=False))
        of_required = [by_place.get(index, ThemeDraft(title, ())) for index, title in enumerate(required)]
        finish = texts_of(answer["FINISH"])[0]
        if finish != "stop":
            status.count(ThemeCheck.CUT_ANSWER)
        return [*of_required, *drafts[len(askable) :]], finish == "stop" and len(drafts) >= wanted

    def _of_searches(
        self,
        searches: Sequence[str],
        written: Sequence[ThemeDraft],
        shopper: str,
        excluded: ExcludedNames | None,
        standing: Standing,
        status: StatusPart,
    ) -> list[ThemeDraft]:
        """A theme, titled by the search itself, for each search that LLM 1 wrote none for; checked like LLM 1's."""
        missing = [text for text in searches if all(theme.concepts[0] != text for theme in written)]
        own = [
            self.quality.check(ThemeDraft(_capital(text), (text,)), shopper, excluded, standing, status)
            for text in missing
        ]
        return [theme for theme in own if theme]

    async def _vectors(
        self, themes: Sequence[ThemeDraft], excluded: ExcludedNames | None, deadline_ns: int, status: StatusPart
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Embeddings of the titles, and which themes are about what is excluded, by the keywords nearest to them.

        Returns:
            float32 [T, D], or None when the engine fails (then words alone are compared); bool [T].
        """
        about = np.zeros(len(themes), bool)
        if len(themes) < 2 and excluded is None:
            return None, about
        # The keywords stage is about to ask for the concepts. The engine remembers texts, and to read all its weights
        # once more would take longer than some texts more.
        concepts = dict.fromkeys(concept for theme in themes for concept in theme.concepts)
        texts = [*(theme.title for theme in themes), *concepts]
        # Even a spent budget leaves this much: near-duplicates are the most visible fault of a page.
        try:
            if excluded is None:
                return (await self.nearest.encode(texts, max(deadline_ns, after_ms(5))))[: len(themes)], about
            found = await self.nearest.keywords(texts, BEST_PRODUCTS, max(deadline_ns, after_ms(5)))
        except EngineError as error:
            status.fall_back_on(error, "near-duplicates by words only ({error})", whole=False)
            return None, about
        place = {text: index for index, text in enumerate(texts)}
        for index, theme in enumerate(themes):
            rows = found.rows[[place[text] for text in (theme.title, *theme.concepts)]]
            about[index] = excluded.keywords(rows[rows >= 0]).mean() >= MOSTLY if (rows >= 0).any() else False
        return found.vectors[: len(themes)], about

    def _distinct(
        self, themes: Sequence[ThemeDraft], required: int, vectors: np.ndarray | None, status: StatusPart
    ) -> list[ThemeDraft]:
        """Drop every theme that nearly repeats an earlier one; the first ``required`` ones stay whatever they say."""
        kept: list[int] = []
        for index, theme in enumerate(themes):
            if index >= required and any(self._alike(theme, themes[other], vectors, index, other) for other in kept):
                status.count(ThemeCheck.NEAR_DUPLICATE, text=theme.title)
            else:
                kept.append(index)
        return [themes[index] for index in kept]

    def _alike(self, one: ThemeDraft, two: ThemeDraft, vectors: np.ndarray | None, i: int, j: int) -> bool:
        if title_overlap(one.title, two.title) >= self.settings.max_overlap or set(one.concepts) == set(two.concepts):
            return True
        return vectors is not None and float(vectors[i] @ vectors[j]) >= self.settings.max_similarity

    def _fill(
        self,
        themes: Sequence[ThemeDraft],
        missing: int,
        categories: Sequence[int],
        excluded: ExcludedNames | None,
        standing: Standing,
    ) -> list[ThemeDraft]:
        """Themes of the categories the shopper buys from, then of popular ones, that do not repeat ``themes``."""
        added: list[ThemeDraft] = []
        for theme in self.categories.themes(categories):
            if len(added) >= missing:
                break
            if self.quality.against_policy(theme.title) or standing.bans_title(theme.title):
                continue
            if excluded is not None and any(excluded.names(text) for text in (theme.title, *theme.concepts)):
                continue
            if all(title_overlap(theme.title, other.title) < self.settings.max_overlap for other in [*themes, *added]):
                added.append(theme)
        return added


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _searches_first(
    themes: Sequence[ThemeDraft], required: int, searches: Sequence[str]
) -> tuple[list[ThemeDraft], int]:
    """Put the themes that answer searches right after the required ones; returns also how many these are."""
    rest = list(themes[required:])
    leading: list[ThemeDraft] = []
    for search in searches:
        own = next((theme for theme in rest if theme.concepts[0] == search), None)
        if own is not None:
            rest.remove(own)
            leading.append(own)
    return [*themes[:required], *leading, *rest], len(leading)
