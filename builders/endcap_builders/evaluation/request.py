"""Reads and checks the request of `endcap evaluate search`: settings, build, queries."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from endcap_server.shop.store import ItemStore
from rich.console import Console

from endcap_builders.evaluation.queries import EvaluationError, Judged, read_judged
from endcap_builders.evaluation.settings import STUDENT, TEACHER, EvaluationSettings
from endcap_builders.manifest import read_manifest
from endcap_builders.relevance.data import Labelled
from endcap_builders.relevance.labels import LabelScale
from endcap_builders.relevance.settings import CrossEncoderSettings, TeacherSettings
from endcap_builders.step import BuildContext, S, build_context, check_sections, read_settings

FOLDER, WORK = "evaluation", ".evaluation"
"""Within a build: the reports, and the models of the grid."""


@dataclass(frozen=True)
class EvaluationRequest:
    """The data of an evaluation.

    Attributes:
        build: a build with the steps bi_encoder, store and lexical.
        catalogue: its catalogue.
        queries: file or folder of queries that no model has seen; None: the catalogue's held-out queries.
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


def catalogue_of(build: Path) -> Path:
    """The catalogue that a build was made from.

    Raises:
        EvaluationError: there is no build.
    """
    manifest = read_manifest(build)
    if "catalogue" not in manifest:
        raise EvaluationError(f"{build}: expected a build, got none; run `endcap build` first")
    return Path(manifest["catalogue"]["folder"])


def settings_of(request: EvaluationRequest) -> tuple[EvaluationSettings, TeacherSettings, CrossEncoderSettings]:
    """The options of the evaluation, of its teachers, and of its students."""
    overrides = request.overrides or {}
    check_sections(overrides, ("evaluate", "teacher", "cross_encoder"))

    def read(kind: type[S], name: str, defaults: dict[str, Any]) -> S:
        return read_settings(kind, name, {**defaults, **overrides.get(name, {})})

    return (
        read(EvaluationSettings, "evaluate", {}),
        read(TeacherSettings, "teacher", TEACHER),
        read(CrossEncoderSettings, "cross_encoder", STUDENT),
    )


def context_of(
    request: EvaluationRequest, console: Console, steps: Sequence[str] = ("bi_encoder", "store", "lexical")
) -> BuildContext:
    """The context of a build that has these steps, with a folder for the models of the grid."""
    manifest = read_manifest(request.build)
    for step in steps:
        if step not in manifest["steps"] or not (request.build / step).is_dir():
            expected = f"{', '.join(steps[:-1])} and {steps[-1]}"
            raise EvaluationError(
                f"{request.build}: expected a build with the steps {expected}, got none of {step}; "
                f"run `endcap build {step} --catalogue {request.catalogue} --out {request.build}` first"
            )
    work = request.build / WORK
    work.mkdir(parents=True, exist_ok=True)
    return build_context(request.build, request.catalogue, work, console)


def judged_of(request: EvaluationRequest, labelled: Labelled, store: ItemStore, scale: LabelScale) -> Judged:
    """The queries to evaluate on: those of the files, or the catalogue's held-out ones."""
    if (request.queries is None) != (request.labels is None):
        raise EvaluationError("--queries and --labels go together: expected both or none")
    if request.queries is None or request.labels is None:
        held_out = labelled.part(training=False)[0]
        source = f"held-out queries of the catalogue, {labelled.source}"
        return Judged(held_out, held_out.target.astype(np.float64) + 1, source, lowest=1.0)
    ids = pl.Series("product_id", list(store.product_ids), dtype=pl.String)
    seen = labelled.judged.queries if labelled.human else []
    return read_judged(request.queries, request.labels, request.split, ids, scale, seen)


def corpus_of(judged: Judged, count: int) -> Judged:
    """The queries for which the whole corpus is ranked; 0: none."""
    if count:
        return judged.sample(count, 1)
    return replace(judged, pairs=judged.pairs.select(np.zeros(len(judged.pairs), dtype=bool)), grades=judged.grades[:0])


def name_of(request: EvaluationRequest) -> str:
    """Name of the report."""
    if request.name:
        return request.name
    if request.queries is None:
        return "held-out"
    folder = request.queries if request.queries.is_dir() else request.queries.parent
    return f"{folder.name}-{request.split}"
