"""`endcap build evaluate`: trains the grid, scores it on unseen queries, writes figures, tables and plots."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from endcap_server.engines.bi_encoder import BiEncoder
from pydantic import ValidationError
from rich.console import Console

from endcap_builders.evaluation.grid import Grid, Point
from endcap_builders.evaluation.queries import EvaluationError, Judged, read_judged
from endcap_builders.evaluation.settings import STUDENT, TEACHER, EvaluationSettings
from endcap_builders.evaluation.speed import pairs_per_second
from endcap_builders.evaluation.summary import Runs, summarise
from endcap_builders.evaluation.systems import Protocol, baselines
from endcap_builders.pipeline import BuildContext, Settings, build_context, read_manifest
from endcap_builders.relevance.data import product_texts
from endcap_builders.relevance.labels import LabelScale
from endcap_builders.relevance.mining import Lexical
from endcap_builders.steps.cross_encoder import CrossEncoderSettings
from endcap_builders.steps.teacher import TeacherSettings

FOLDER, WORK = "evaluation", ".evaluation"
"""Within a build: the reports, and the models of the grid."""


@dataclass(frozen=True)
class Request:
    """What to evaluate on.

    Attributes:
        build: a build whose steps store and bi_encoder are there.
        catalogue: its catalogue.
        queries: file or folder of queries nobody has seen; None: the catalogue's held-out queries.
        labels: file or folder of their labels.
        split: value of the column split of `queries`.
        name: of the report; "" for the queries' folder.
        overrides: settings by section (evaluate, teacher, cross_encoder).
    """

    build: Path
    catalogue: Path
    queries: Path | None = None
    labels: Path | None = None
    split: str = "dev"
    name: str = ""
    overrides: dict[str, dict[str, Any]] | None = None


def run_evaluation(request: Request, console: Console | None = None) -> dict[str, Any]:
    """Train what is missing, score everything, and write report.json, report.md and two plots; the report.

    Raises:
        EvaluationError: the build lacks a step, or the queries cannot be used.
        BuildError: settings or labels that cannot be used.
    """
    started = time.monotonic()
    settings, teacher, student = _settings(request)
    ctx = _context(request, console or Console(stderr=True))
    scale = LabelScale.parse(teacher.label_values)
    grid_of = Grid.opened(ctx, settings, teacher, student, scale)
    judged = _judged(request, grid_of, scale).sample(settings.max_queries, 0)
    grid_of.unseen = judged.pairs.queries
    ctx.log(f"{len(judged.pairs):,} judged pairs of {len(judged.pairs.queries):,} queries: {judged.source}")
    lexical, encoder = Lexical(product_texts(ctx, grid_of.store)), BiEncoder(ctx.input("bi_encoder"))

    def encode(texts: list[str]) -> np.ndarray:
        return encoder.encode(texts, "query")

    protocol = Protocol.of(
        judged, judged.sample(settings.corpus_queries, 1) if settings.corpus_queries else _nothing(judged), lexical,
        encode, grid_of.store.vectors, settings.corpus_depth, settings.relevant,
    )  # fmt: skip
    systems: dict[str, Runs] = {
        name: {None: figures}
        for name, figures in baselines(protocol, lexical, encode, grid_of.store.vectors, seed=0).items()
    }
    points = _points(grid_of, protocol, systems)
    report = {
        "format": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "build": str(request.build),
        "queries": {
            "source": judged.source,
            "queries": len(judged.pairs.queries),
            "pairs": len(judged.pairs),
            "left_out": judged.left_out,
            "whole_corpus_queries": len(protocol.corpus.pairs.queries),
        },
        "settings": {
            "evaluate": settings.model_dump(mode="json"),
            "teacher": teacher.model_dump(mode="json"),
            "cross_encoder": student.model_dump(mode="json"),
        },
        "systems": summarise(systems, "teacher"),
        "layers": _cost(grid_of, protocol, points),
        "training": {name: {str(seed): point.figures for seed, point in each.items()} for name, each in points.items()},
        "seconds": round(time.monotonic() - started, 1),
    }
    from endcap_builders.evaluation.report import write_report

    folder = request.build / FOLDER / (request.name or _name(request))
    for path in write_report(report, folder):
        ctx.log(str(path))
    return report


def _points(grid: Grid, protocol: Protocol, systems: dict[str, Runs]) -> dict[str, dict[int, Point]]:
    """Train and score every point, the ends of the curve first; `systems` gets their figures."""
    settings = grid.settings
    largest, full = max(settings.multiples), settings.layers[0]
    points: dict[str, dict[int, Point]] = {}

    def add(name: str, point: Point) -> None:
        scores = grid.scores(point, protocol.judged.pairs)
        # The whole corpus is ranked for one seed: its candidates are many, and what it shows is not the main claim.
        first = point.seed == settings.seeds[0] and len(protocol.candidates) > 0
        candidates = grid.scores(point, protocol.candidates) if first else None
        points.setdefault(name, {})[point.seed] = point
        runs = dict(systems.get(name, {}))
        runs[point.seed] = protocol.of_scores(scores, candidates)
        systems[name] = runs

    for seed in settings.seeds:
        add("teacher", grid.teacher_of(seed))
        for multiple in dict.fromkeys((min(settings.multiples), largest)):
            add(f"student x{multiple}", grid.student_of(seed, multiple, full))
    for seed in settings.seeds[: settings.curve_seeds]:
        for multiple in settings.multiples:
            add(f"student x{multiple}", grid.student_of(seed, multiple, full))
    for layers in settings.layers[1:]:
        add(f"student x{largest}, {layers} layers", grid.student_of(settings.seeds[0], largest, layers))
    order = [f"student x{multiple}" for multiple in sorted(settings.multiples)]
    for name in [*order, *(name for name in list(systems) if "layers" in name)]:
        systems[name] = systems.pop(name)
    return points


def _cost(grid: Grid, protocol: Protocol, points: dict[str, dict[int, Point]]) -> dict[str, Any]:
    """Throughput of the students of fewer layers, and their quality as a share of the full one's, seed by seed."""
    settings = grid.settings
    largest, seed = max(settings.multiples), settings.seeds[0]
    names = {
        f"{layers} layers": f"student x{largest}" + (f", {layers} layers" if layers != settings.layers[0] else "")
        for layers in settings.layers
    }
    folders = {name: grid.served(points[system][seed]) for name, system in names.items()}
    pairs = protocol.judged.pairs
    keep = np.zeros(len(pairs.queries), dtype=bool)
    keep[: int(np.searchsorted(pairs.offsets, settings.speed_pairs, side="right")) - 1 or 1] = True
    timed = pairs.select_queries(keep)
    rows = pairs_per_second(folders, grid.store, timed, settings.speed_rounds, next(iter(folders)))
    full = protocol.of_scores(grid.scores(points[names[next(iter(names))]][seed], pairs), None)["ndcg"]
    for name, system in names.items():
        own = protocol.of_scores(grid.scores(points[system][seed], pairs), None)["ndcg"]
        rows[name]["ndcg"] = round(float(np.nanmean(own)), 4)
        rows[name]["ndcg_share"] = _share(own, full)
    return {"seed": seed, "pairs": len(timed), "rows": rows}


def _share(own: np.ndarray, full: np.ndarray) -> dict[str, float]:
    from endcap_builders.intervals import bootstrap

    known = ~np.isnan(own) & ~np.isnan(full)
    mine, theirs = own[known], full[known]
    return bootstrap(lambda rows: mine[rows].mean(axis=1) / theirs[rows].mean(axis=1), len(mine), 0).document()


def _settings(request: Request) -> tuple[EvaluationSettings, TeacherSettings, CrossEncoderSettings]:
    overrides = request.overrides or {}
    unknown = sorted(set(overrides) - {"evaluate", "teacher", "cross_encoder"})
    if unknown:
        raise EvaluationError(f"settings of {unknown[0]!r}: an evaluation has evaluate, teacher and cross_encoder")

    def read(kind: type[Settings], name: str, defaults: dict[str, Any]) -> Any:
        try:
            return kind.model_validate({**defaults, **overrides.get(name, {})})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise EvaluationError(
                f"setting {name}.{where}: {first['msg']}, got {first['input']!r}; the settings are "
                + ", ".join(kind.model_fields)
            ) from None

    return (
        read(EvaluationSettings, "evaluate", {}),
        read(TeacherSettings, "teacher", TEACHER),
        read(CrossEncoderSettings, "cross_encoder", STUDENT),
    )


def _context(request: Request, console: Console) -> BuildContext:
    manifest = read_manifest(request.build)
    for step in ("bi_encoder", "store"):
        if step not in manifest["steps"] or not (request.build / step).is_dir():
            raise EvaluationError(
                f"{request.build}: expected a build with the steps bi_encoder and store, got none of {step}; run "
                f"`endcap build {step} --catalogue {request.catalogue} --out {request.build}` first"
            )
    work = request.build / WORK
    work.mkdir(parents=True, exist_ok=True)
    return build_context(request.build, request.catalogue, work, console)


def _judged(request: Request, grid: Grid, scale: LabelScale) -> Judged:
    """The queries to evaluate on: those of the files, or the catalogue's held-out ones."""
    if (request.queries is None) != (request.labels is None):
        raise EvaluationError("--queries and --labels go together: expected both or none")
    if request.queries is None or request.labels is None:
        if not grid.labelled.human:
            raise EvaluationError(
                "expected queries judged by people: the catalogue has no judgements.parquet; name files of judged "
                "queries with --queries and --labels"
            )
        held_out = grid.labelled.part(training=False)[0]
        return Judged(held_out, held_out.target.astype(np.float64) + 1, "held-out queries of the catalogue")
    ids = pl.Series("product_id", list(grid.store.product_ids), dtype=pl.String)
    seen = grid.labelled.judged.queries if grid.labelled.human else []
    return read_judged(request.queries, request.labels, request.split, ids, scale, seen)


def _nothing(judged: Judged) -> Judged:
    return Judged(judged.pairs.select(np.zeros(len(judged.pairs), dtype=bool)), judged.grades[:0], judged.source)


def _name(request: Request) -> str:
    if request.queries is None:
        return "held-out"
    folder = request.queries if request.queries.is_dir() else request.queries.parent
    return f"{folder.name}-{request.split}"
