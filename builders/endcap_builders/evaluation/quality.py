"""`endcap evaluate quality`: how often the quality checks are wrong."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from endcap_server.shop.store import ItemStore
from endcap_server.stages.fusion_parameters import FusionParameters
from pydantic import Field
from rich.console import Console

from endcap_builders.evaluation.quality_report import write_quality
from endcap_builders.evaluation.queries import EvaluationError, Judged
from endcap_builders.evaluation.request import FOLDER, EvaluationRequest, context_of, judged_of
from endcap_builders.machine import machine
from endcap_builders.quality.product_fit import Bounds, ProductScores, product_fit
from endcap_builders.quality.served import served_parameters
from endcap_builders.relevance.data import read_labelled
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
    seed: int = Field(0, ge=0, description="of all draws")


@dataclass(frozen=True)
class QualityEvaluation:
    """What to measure.

    Attributes:
        asked: build, catalogue, and the labelled queries.
        settings: options.
        parts: names of `PARTS`; all without any.
        name: of the report.
    """

    asked: EvaluationRequest
    settings: QualitySettings
    parts: tuple[str, ...] = ()
    name: str = "quality"


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
    return title_checks(work.ctx, work.store, settings.titles, settings.seed)


PARTS: dict[str, Callable[[Work], dict[str, Any]]] = {"products": _products, "titles": _titles}
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
    report["seconds"] = round(time.monotonic() - started, 1)
    for path in write_quality(report, ctx.build / FOLDER / request.name):
        ctx.log(str(path))
    return report


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
