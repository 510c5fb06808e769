"""`endcap evaluate search`: trains the grid, scores it on unseen queries, writes figures, tables and plots."""

import time
from functools import partial
from typing import Any

import numpy as np
from endcap_client import Client
from endcap_server.engines.bi_encoder import BiEncoder
from endcap_server.engines.lexical import Boosts, LexicalIndex
from endcap_server.shop.store import ItemStore
from rich.console import Console

from endcap_builders.evaluation.asking import connected
from endcap_builders.evaluation.built import evaluate_built, searched
from endcap_builders.evaluation.grid import Grid, Point
from endcap_builders.evaluation.queries import Judged
from endcap_builders.evaluation.report import write_built, write_report
from endcap_builders.evaluation.request import (
    FOLDER,
    EvaluationRequest,
    context_of,
    corpus_of,
    judged_of,
    name_of,
    settings_of,
)
from endcap_builders.evaluation.speed import pairs_per_second
from endcap_builders.evaluation.summary import Runs, summarise
from endcap_builders.evaluation.systems import Protocol, baselines
from endcap_builders.intervals import bootstrap
from endcap_builders.machine import machine
from endcap_builders.relevance.data import product_texts, read_labelled
from endcap_builders.relevance.labels import LabelScale, labels_of
from endcap_builders.relevance.mining import Lexical


def run_evaluation(request: EvaluationRequest, console: Console | None = None) -> dict[str, Any]:
    """Train what is missing, score everything, and write report.json, report.md and two plots; the report.

    Raises:
        EvaluationError: the build lacks a step, or the queries cannot be used.
        BuildError: settings or labels that cannot be used.
    """
    started = time.monotonic()
    settings, teacher, student = settings_of(request)
    ctx = context_of(request, console or Console(stderr=True))
    scale = LabelScale.parse(teacher.label_values)
    grid = Grid.opened(ctx, settings, teacher, student, scale)
    judged = judged_of(request, grid.labelled, grid.store, scale).sample(settings.max_queries, 0)
    grid.unseen = judged.pairs.queries
    ctx.log(f"{len(judged.pairs):,} judged pairs of {len(judged.pairs.queries):,} queries: {judged.source}")
    lexical, encoder = Lexical(product_texts(ctx, grid.store)), BiEncoder(ctx.input("bi_encoder"))
    words = LexicalIndex(ctx.input("lexical"), Boosts())

    def encode(texts: list[str]) -> np.ndarray:
        return encoder.encode(texts, "query")

    corpus = corpus_of(judged, settings.corpus_queries)
    protocol = Protocol.of(
        judged, corpus, lexical, words, encode, grid.store.vectors, settings.corpus_depth, settings.relevant
    )
    systems: dict[str, Runs] = {
        name: {None: figures}
        for name, figures in baselines(protocol, lexical, encode, grid.store.vectors, seed=0).items()
    }
    points = _points(grid, protocol, systems)
    report = {
        "format": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "build": str(request.build),
        "queries": _asked(judged, corpus),
        "settings": {
            "evaluate": settings.model_dump(mode="json"),
            "teacher": teacher.model_dump(mode="json"),
            "cross_encoder": student.model_dump(mode="json"),
        },
        "systems": summarise(systems, ("teacher", f"student x{min(settings.multiples)}")),
        "layers": _cost(grid, protocol, points),
        "training": {name: {str(seed): point.figures for seed, point in each.items()} for name, each in points.items()},
        "seconds": round(time.monotonic() - started, 1),
    }
    folder = request.build / FOLDER / name_of(request)
    for path in write_report(report, folder):
        ctx.log(str(path))
    return report


def run_search(
    request: EvaluationRequest, address: str = "", timeout_s: float = 10.0, console: Console | None = None
) -> dict[str, Any]:
    """`run_built` with the search of a server: the one at `address`, or one of the build that is started.

    Raises:
        LaunchError: the server does not start.
        EvaluationError: it does not answer; and what `run_built` raises.
    """
    with connected(request.build, address, timeout_s) as client:
        return run_built(request, console, client)


def run_built(
    request: EvaluationRequest, console: Console | None = None, client: Client | None = None
) -> dict[str, Any]:
    """Measure the build's own teacher and student, and write built.json and built.md; the report.

    Args:
        request: what to measure on.
        console: for progress.
        client: of a server of the build whose search is measured too; None: none.

    Raises:
        EvaluationError: the build lacks a step, or the queries cannot be used.
        BuildError: settings or labels that cannot be used.
    """
    settings, *_ = settings_of(request)
    ctx = context_of(request, console or Console(stderr=True))
    store = ItemStore.open(ctx.build, linked=False)
    labels = labels_of(ctx.input("teacher"))
    scale = LabelScale.parse(labels["label_values"])
    labelled = read_labelled(ctx, store, labels["weak_queries"], labels["held_out_share"], scale)
    judged = judged_of(request, labelled, store, scale).sample(settings.max_queries, 0)
    corpus = corpus_of(judged, settings.corpus_queries)
    search = partial(searched, client, store, ctx) if client else None
    systems, answered = evaluate_built(ctx, store, judged, corpus, settings.corpus_depth, settings.relevant, search)
    report: dict[str, Any] = {
        "format": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "build": str(request.build),
        "queries": _asked(judged, corpus),
        "systems": systems,
    }
    if answered:
        p50, p95 = np.percentile(answered.ms, (50, 95)).round(1).tolist()
        report["served"] = {
            "machine": machine(),
            "p50_ms": p50,
            "p95_ms": p95,
            "degraded": answered.degraded,
            "pairs": float(np.median(answered.pairs)),
        }
    for path in write_built(report, request.build / FOLDER / name_of(request)):
        ctx.log(str(path))
    return report


def _asked(judged: Judged, corpus: Judged) -> dict[str, Any]:
    return {
        "source": judged.source,
        "queries": len(judged.pairs.queries),
        "pairs": len(judged.pairs),
        "left_out": judged.left_out,
        "whole_corpus_queries": len(corpus.pairs.queries),
    }


def _points(grid: Grid, protocol: Protocol, systems: dict[str, Runs]) -> dict[str, dict[int, Point]]:
    """Train and score every point, the ends of the curve first; `systems` gets their figures."""
    settings = grid.settings
    largest, full = max(settings.multiples), settings.layers[0]
    points: dict[str, dict[int, Point]] = {}

    def add(name: str, point: Point) -> None:
        scores = grid.scores(point, protocol.judged.pairs)
        ranked = point.seed in settings.seeds[: settings.corpus_seeds] and len(protocol.candidates) > 0
        candidates = grid.scores(point, protocol.candidates) if ranked else None
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
    known = ~np.isnan(own) & ~np.isnan(full)
    mine, theirs = own[known], full[known]
    return bootstrap(lambda rows: mine[rows].mean(axis=1) / theirs[rows].mean(axis=1), len(mine), 0).document()
