"""The checks of titles: how many good titles they refuse, and how many faults of each kind they find."""

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from endcap_server.declared.tensors import Tensors, bytes_tensor, texts_of
from endcap_server.engines.nearest import Nearest, NearestRequest
from endcap_server.shop import prompts
from endcap_server.shop.grammar import theme_grammar
from endcap_server.shop.prompts import MalformedAnswer, ThemeDraft, theme_completion, theme_prompt
from endcap_server.shop.store import ItemStore
from endcap_server.stages.documents import PlacementSource, ThemeRequest, Themes, Ticket
from endcap_server.stages.status import part_of
from endcap_server.stages.theme import Theme
from endcap_server.stages.theme_parameters import ThemeParameters

from endcap_builders.environment import environment
from endcap_builders.merchandising.merchandiser import Merchandiser
from endcap_builders.quality.rates import wilson
from endcap_builders.quality.served import served_parameters
from endcap_builders.quality.title_cases import TitleCases, TitlePage
from endcap_builders.step import BuildContext

MERCHANDISER, STUDENT, COINED, BESIDE = "merchandiser", "LLM 1", "coined", "beside an exclusion"
"""Good titles: by whom, for shoppers that LLM 1 was not trained on; coined ones; those in requests with exclusions."""
_PATIENCE_S = 60.0
_SHOWN, _MOST_DETAILS = 5, 12
_TOKENS_PER_THEME = 60


class ThemeChecks:
    """The served stage `theme` of a build, with themes that it is given instead of those of LLM 1."""

    def __init__(self, ctx: BuildContext):
        settings = served_parameters(ctx.build, "theme", ThemeParameters)
        self._nearest = Nearest(ctx.build, cache_texts=50_000)
        self._text = ""
        with _run_folder():
            self._stage = Theme(ctx.build, settings.model_copy(update={"cache_entries": 0}), self)
        # Whether LLM 1 serves makes no difference to the checks of what it would write.
        self._stage.installed = True

    def refusals(self, page: TitlePage) -> list[str]:
        """Why each theme in question was refused; "" for one that was not."""
        self._text = theme_completion(page.drafts, page.shopper)
        deadline_ns = time.monotonic_ns() + int(_PATIENCE_S * 1e9)
        ticket = Ticket(table="quality", deadline_ns=deadline_ns, theme_ns=deadline_ns, keywords_ns=deadline_ns)
        request = ThemeRequest(ticket=ticket, shopper=page.shopper, placements=len(page.drafts), rules=dict(page.rules))
        answer = asyncio.run(self._stage.run({"THEME_REQUEST": request.tensor()}))
        themes, status = Themes.read(answer["THEMES"]), part_of(answer["THEMES"])
        shown = {
            title for place, title in enumerate(themes.titles) if themes.source(place) is not PlacementSource.CATEGORY
        }
        counts = Counter({name: int(number) for name, number in status.get("aiqa", {}).items()})
        told = {each["text"]: each["check"] for each in status.get("refused", ())}
        reasons = []
        for draft in page.asked:
            title = " ".join(draft.title.split())
            # Only the first few are told by title; of the others, and of checks that name none, the page's are named.
            reasons.append("" if title in shown else told.get(title) or (next(iter(counts), "") or "not shown"))
        return reasons

    async def call(self, engine: str, inputs: Tensors, deadline_ns: int, outputs: tuple[str, ...]) -> Tensors:
        """The engines of the stage: the given themes, and the build's own bi-encoder and indexes."""
        if engine == "theme_llm":
            return {"TEXT": bytes_tensor([self._text]), "FINISH": bytes_tensor(["stop"])}
        request = NearestRequest(
            texts_of(inputs["TEXT"]),
            index=texts_of(inputs["INDEX"])[0] if "INDEX" in inputs else None,
            k=int(inputs["K"][0]) if "K" in inputs else 0,
        )
        (answer,) = self._nearest.run([request])
        if isinstance(answer, Exception):
            raise answer
        return {"ROW": answer.rows, "SIMILARITY": answer.similarity, "VECTOR": answer.vectors}


def title_checks(
    ctx: BuildContext,
    store: ItemStore,
    merchandiser: Merchandiser,
    pages: Sequence[tuple[str, tuple[ThemeDraft, ...]]],
    count: int,
    seed: int,
) -> dict[str, Any]:
    """Rates of the checks of titles.

    Args:
        ctx: of the build.
        store: its products.
        merchandiser: of the build.
        pages: shopper texts with the merchandiser's themes.
        count: titles of each other kind, about.
        seed: of the draws.

    Returns:
        refused: by kind of good titles, the share that is refused, by which checks, and examples; found: by kind of
        fault, the share that is refused, by which checks, and examples of what was not.
    """
    checks, cases = ThemeChecks(ctx), TitleCases(merchandiser.statistics, seed)
    good = {
        MERCHANDISER: [TitlePage(drafts, shopper, place=-1) for shopper, drafts in pages],
        STUDENT: _of_student(ctx, [shopper for shopper, _ in pages]),
        COINED: cases.coined(count),
        BESIDE: cases.beside_exclusions(count),
    }
    refused, passed = {}, []
    for kind, each in good.items():
        reasons = [checks.refusals(page) for page in ctx.track(each, f"good titles: {kind}", len(each))]
        refused[kind] = _figures(each, reasons, examples_of_refused=True)
        if kind in (MERCHANDISER, STUDENT):
            passed += [
                TitlePage((draft,), page.shopper)
                for page, why in zip(each, reasons, strict=True)
                for draft, reason in zip(page.asked, why, strict=True)
                if not reason
            ]
    # A theme can be refused alone that passes on its page: a search that the page quotes comes first there.
    single = [page for page in passed if checks.refusals(page) == [""]]
    found = {}
    for kind, each in cases.faults(random.Random(seed).sample(single, len(single)), count).items():
        reasons = [checks.refusals(page) for page in ctx.track(each, f"faults: {kind}", len(each))]
        found[kind] = _figures(each, reasons, examples_of_refused=False)
    return {"refused": refused, "found": found}


def _figures(
    pages: Sequence[TitlePage], reasons: Sequence[Sequence[str]], *, examples_of_refused: bool
) -> dict[str, Any]:
    each = [
        (draft.title, page.detail, reason)
        for page, why in zip(pages, reasons, strict=True)
        for draft, reason in zip(page.asked, why, strict=True)
    ]
    told = [{"title": title, "detail": detail, "check": why} for title, detail, why in each
            if bool(why) is examples_of_refused]  # fmt: skip
    details = Counter(detail for _, detail, _ in each)
    figures: dict[str, Any] = {
        **wilson(sum(bool(why) for *_, why in each), len(each)),
        "checks": dict(Counter(why for *_, why in each if why).most_common()),
        "examples": told[:_SHOWN],
    }
    if 1 < len(details) <= _MOST_DETAILS:
        missed = Counter(detail for _, detail, why in each if why)
        figures["by_detail"] = {name: wilson(missed[name], total) for name, total in details.items()}
    return figures


def _of_student(ctx: BuildContext, shoppers: Sequence[str], placements: int = 4) -> list[TitlePage]:
    """Pages that LLM 1 writes for shopper texts; none if the build has no LLM 1."""
    folder = ctx.input("theme_llm")
    if not (folder / "openvino_model.xml").exists():
        return []
    from endcap_server.engines.llm import Llm

    engine = Llm(folder)
    try:
        answers = engine.generate(
            [theme_prompt(shopper, placements) for shopper in shoppers],
            [theme_grammar(placements, (), shopper) for shopper in shoppers],
            _TOKENS_PER_THEME * placements,
        )
    finally:
        engine.close()
    pages = []
    for shopper, answer in zip(shoppers, answers, strict=True):
        try:
            drafts = prompts.parse_themes(answer.text, shopper)
        except MalformedAnswer:
            continue
        if drafts:
            pages.append(TitlePage(tuple(drafts), shopper, place=-1))
    return pages


@contextmanager
def _run_folder() -> Iterator[None]:
    """A folder of its own for the stage, which shares it with no server."""
    with tempfile.TemporaryDirectory() as folder, environment({"ENDCAP_RUN_DIR": folder}):
        yield
