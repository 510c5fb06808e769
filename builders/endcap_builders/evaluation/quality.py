"""`endcap evaluate quality`: how often the quality checks are wrong."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from endcap_server.shop.store import ItemStore
from endcap_server.stages.fusion_parameters import FusionParameters
from pydantic import Field
from rich.console import Console

from endcap_builders.chat import OpenAISettings, StructuredChat
from endcap_builders.evaluation.asking import connected
from endcap_builders.evaluation.quality_report import write_quality
from endcap_builders.evaluation.queries import EvaluationError, Judged
from endcap_builders.evaluation.request import FOLDER, EvaluationRequest, context_of, judged_of
from endcap_builders.machine import machine
from endcap_builders.merchandising.merchandiser import Merchandiser
from endcap_builders.quality.judges import EndpointJudge, FitJudge, RulesJudge, TeacherJudge
from endcap_builders.quality.labelling import ask_labels
from endcap_builders.quality.new_pages import merchandiser_of, new_pages
from endcap_builders.quality.planted import placement_checks
from endcap_builders.quality.product_fit import FLOORS, Bounds, ProductScores, product_fit
from endcap_builders.quality.served import served_parameters, set_served
from endcap_builders.quality.shown_pages import (
    QUESTIONS,
    PageRequests,
    ask_pages,
    page_figures,
    product_lines,
    read_questions,
)
from endcap_builders.relevance.data import read_labelled
from endcap_builders.relevance.judge import Judge
from endcap_builders.relevance.labels import LabelScale, labels_of
from endcap_builders.step import BuildContext, Settings, check_sections, read_settings

SECTION = "quality"


class QualitySettings(Settings):
    """Options of the evaluation."""

    label_values: str = Field(
        "", description="relevance of each label of --labels, as teacher.label_values; empty: as the teacher's labels"
    )
    fit: float = Field(0.5, gt=0, le=1, description="label, 0..1, from which a product fits")
    misfit: float = Field(0.25, ge=0, lt=1, description="label up to which it is a misfit; between them it is neither")
    most_false_drops: float = Field(0.1, gt=0, lt=1, description="share of what fits that the product check may drop")
    least_found: float = Field(0.6, gt=0, le=1, description="share of misfits that it should find")
    max_queries: int = Field(0, ge=0, description="most queries to measure on, drawn at random; 0: all")
    titles: int = Field(300, ge=10, description="titles of each kind to check")
    placements: int = Field(200, ge=10, description="themes whose placements are checked, at most")
    judge: Literal["teacher", "rules", "openai"] = Field(
        "teacher", description="who judges whether products fit their themes; openai: an LLM at an endpoint"
    )
    openai: OpenAISettings = Field(OpenAISettings.model_validate({}), description="the endpoint, for judge=openai")
    pages: int = Field(100, ge=2, description="shoppers whose pages are requested")
    page_placements: int = Field(4, ge=1, le=16, description="placements of a page")
    page_products: int = Field(12, ge=5, le=100, description="products of a placement")
    seed: int = Field(0, ge=0, description="of all draws")


@dataclass(frozen=True)
class QualityEvaluation:
    """What to measure.

    Attributes:
        asked: build, catalogue, and the labelled queries.
        settings: options.
        parts: names of `PARTS`; all without any.
        name: of the report.
        human_labels: file of people's labels of products of pages; None: none.
        address: HOST:PORT of a server of the build; "": start one.
        timeout_s: of one page.
        set_floors: whether to write the measured floors of products into the build's repository.
    """

    asked: EvaluationRequest
    settings: QualitySettings
    parts: tuple[str, ...] = ()
    name: str = "quality"
    human_labels: Path | None = None
    address: str = ""
    timeout_s: float = 10.0
    set_floors: bool = False


@dataclass(frozen=True)
class Work:
    """What the parts share."""

    request: QualityEvaluation
    ctx: BuildContext
    store: ItemStore

    @cached_property
    def scores(self) -> ProductScores:
        """The scores that products are checked by."""
        return ProductScores(self.ctx, self.store)

    @cached_property
    def merchandiser(self) -> Merchandiser:
        """The rule-based teacher, which writes good titles and placements."""
        return merchandiser_of(self.ctx, self.store)

    @cached_property
    def fusion(self) -> FusionParameters:
        """Parameters of the served stage."""
        return served_parameters(self.ctx.build, "fusion", FusionParameters)


def _products(work: Work) -> dict[str, Any]:
    settings = work.request.settings
    bounds = Bounds(settings.fit, settings.misfit, settings.most_false_drops, settings.least_found)
    judged = _judged(work).sample(settings.max_queries, settings.seed)
    return product_fit(work.ctx, work.scores, judged, bounds, work.fusion)


def _titles(work: Work) -> dict[str, Any]:
    from endcap_builders.quality.titles import title_checks

    settings = work.request.settings
    pages = new_pages(work.ctx, work.merchandiser, settings.titles, settings.seed)
    return title_checks(work.ctx, work.store, work.merchandiser, pages, settings.titles, settings.seed)


def _placements(work: Work) -> dict[str, Any]:
    settings = work.request.settings
    pages = new_pages(work.ctx, work.merchandiser, settings.placements, settings.seed)
    drafts = [draft for _, page in pages for draft in page]
    return placement_checks(
        work.ctx, work.scores, work.merchandiser, drafts, work.fusion, settings.most_false_drops, settings.seed
    )


def _pages(work: Work) -> dict[str, Any]:
    request, settings = work.request, work.request.settings
    asked = PageRequests(settings.pages, settings.page_placements, settings.page_products, settings.seed)
    with connected(work.ctx.build, request.address, request.timeout_s) as client:
        pages = ask_pages(work.ctx, client, asked)
    folder = work.ctx.build / FOLDER / request.name
    return page_figures(work.ctx, work.store, pages, _judge(work), request.human_labels, folder, settings.seed)


def _judge(work: Work) -> FitJudge:
    ctx, name = work.ctx, work.request.settings.judge
    if name == RulesJudge.name:
        return RulesJudge(work.scores, work.fusion.relevance_floor, work.fusion.similarity_floor)
    if name == EndpointJudge.name:
        instead = "choose another judge (quality.judge)"
        answers = ctx.build / FOLDER / work.request.name / "answers.jsonl"
        answers.parent.mkdir(parents=True, exist_ok=True)
        chat = StructuredChat(work.request.settings.openai, answers, ctx.log, who="judge", instead=instead)
        return EndpointJudge(chat, product_lines(ctx.catalogue))
    return TeacherJudge(Judge(ctx.input("teacher"), ctx.build, ctx.catalogue_folder), work.scores)


PARTS: dict[str, Callable[[Work], dict[str, Any]]] = {
    "products": _products,
    "titles": _titles,
    "placements": _placements,
    "pages": _pages,
}
"""What is measured, by name."""


def quality_settings(overrides: dict[str, dict[str, Any]]) -> QualitySettings:
    """The options of `--set`.

    Raises:
        SettingError: a section or an option that does not exist, or a value out of range.
    """
    check_sections(overrides, (SECTION,))
    return read_settings(QualitySettings, SECTION, overrides.get(SECTION, {}))


def run_quality(request: QualityEvaluation, console: Console | None = None) -> dict[str, Any]:
    """Measure, write report.json, report.md and plots; returns the report.

    Raises:
        EvaluationError: the build lacks a step, or there is nothing to measure on.
        BuildError: labels that cannot be used.
    """
    started = time.monotonic()
    for part in request.parts:
        if part not in PARTS:
            raise EvaluationError(f"--part: expected one of {', '.join(PARTS)}, got {part!r}")
    ctx = context_of(request.asked, console or Console(stderr=True), ("bi_encoder", "store"))
    work = Work(request, ctx, ItemStore.open(ctx.build))
    report: dict[str, Any] = {
        "format": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "build": str(ctx.build),
        "machine": machine(),
        "settings": request.settings.model_dump(),
        **{name: PARTS[name](work) for name in request.parts or PARTS},
    }
    if request.set_floors:
        _set_floors(work, report)
    report["seconds"] = round(time.monotonic() - started, 1)
    for path in write_quality(report, ctx.build / FOLDER / request.name):
        ctx.log(str(path))
    return report


def _set_floors(work: Work, report: Mapping[str, Any]) -> None:
    """Write the floors that keep the share of false drops to where `fusion` reads them.

    Raises:
        EvaluationError: products were not measured.
    """
    if "products" not in report:
        raise EvaluationError("--set-floors: expected the part products, by which floors are set, got other parts only")
    scores = report["products"]["scores"]
    floors = {
        parameter: scores[name]["point"]["floor"]["value"]
        for name, parameter in FLOORS.items()
        if name in scores and scores[name]["point"]["floor"]
    }
    path = set_served(work.ctx.build, "fusion", FusionParameters, floors)
    told = ", ".join(f"{name} {value:g}" for name, value in floors.items())
    work.ctx.log(f"{path}: {told}; `endcap apply` brings them to a running server")


def label(build: Path, name: str, path: Path, count: int, console: Console | None = None) -> int:
    """Ask a person about products of the pages that an evaluation of this name requested; how many labels there are.

    Raises:
        EvaluationError: there was no such evaluation, or the file holds something else.
    """
    return ask_labels(read_questions(build / FOLDER / name / QUESTIONS), path, count, console=console)


def _judged(work: Work) -> Judged:
    """The labelled queries that no model has seen."""
    ctx = work.ctx
    has_teacher = ctx.input("teacher").is_dir()
    shared = labels_of(ctx.input("teacher")) if has_teacher else {}
    learned = LabelScale.parse(shared.get("label_values", ""))
    labelled = read_labelled(ctx, work.store, shared.get("weak_queries", 0), shared.get("held_out_share", 1.0), learned)
    if work.request.asked.queries is None and not labelled.human:
        raise EvaluationError(
            f"{ctx.catalogue_folder}: expected judgements.parquet to check products against people, got none; name "
            "labelled queries with --queries and --labels"
        )
    given = work.request.settings.label_values
    return judged_of(work.request.asked, labelled, work.store, LabelScale.parse(given) if given else learned)
