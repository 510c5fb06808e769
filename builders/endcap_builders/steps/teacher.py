"""Step `teacher`: a classifier with soft targets that grades (query, product) pairs."""

import json
from typing import Any

import numpy as np
import torch
from endcap_server.store import ItemStore
from pydantic import Field

from endcap_builders.pipeline import BuildContext, Step
from endcap_builders.relevance.data import SampleSettings, draw_labelled, pair_encoder, read_labelled
from endcap_builders.relevance.measure import group_figures
from endcap_builders.relevance.teacher import train_teacher
from endcap_builders.relevance.training import Schedule, load_model, tell_if_cut

LABELS_FILE = "labels.json"


class TeacherSettings(SampleSettings):
    """Options of the relevance teacher."""

    checkpoint: str = Field("", description="Hugging Face checkpoint to start from; empty: the packaged MiniLM weights")
    layers: int = Field(0, ge=0, description="transformer layers to keep, from the bottom; 0: all")
    grades: int = Field(4, ge=2, le=20, description="relevance grades between which labels are interpolated")
    held_out_share: float = Field(0.1, gt=0, lt=0.5, description="share of the queries kept for calibration")
    weak_queries: int = Field(600, ge=2, description="queries made from the catalogue where nobody has judged any")
    epochs: float = Field(2.2, gt=0, description="passes over the pairs")
    train_seconds: float = Field(300.0, gt=0, description="training ends after this time even within a pass")
    batch_size: int = Field(32, ge=2, description="pairs per step")
    learning_rate: float = Field(2e-4, gt=0, le=1e-2, description="peak learning rate")


def run(ctx: BuildContext, settings: TeacherSettings) -> dict[str, Any]:
    """Write checkpoint, tokenizer, grades.json, and labels.json: what the student needs to know of the labels."""
    rng = np.random.default_rng(ctx.seed)
    torch.manual_seed(ctx.seed)
    store = ItemStore.open(ctx.build, linked=False)
    labelled = read_labelled(ctx, store, settings.weak_queries, settings.held_out_share)
    pairs = draw_labelled(ctx, store, labelled, settings, rng)
    model, tokenizer = load_model(settings.checkpoint, labels=settings.grades, layers=settings.layers)
    encoder = pair_encoder(ctx, store, tokenizer)
    schedule = Schedule(
        max_steps=max(1, round(settings.epochs * len(pairs) / settings.batch_size)),
        max_seconds=settings.train_seconds,
        learning_rate=settings.learning_rate,
    )
    ctx.log(f"{len(pairs):,} pairs of {len(pairs.queries):,} queries ({labelled.source})")
    teacher, figures = train_teacher(
        encoder.encode(pairs),
        model,
        tokenizer,
        grades=settings.grades,
        schedule=schedule,
        batch_size=settings.batch_size,
        rng=rng,
        track=ctx.track,
    )
    tell_if_cut(ctx, figures, schedule)
    teacher.save(ctx.output)
    shared = settings.model_dump(include={"weak_queries", "held_out_share"})
    (ctx.output / LABELS_FILE).write_text(json.dumps(shared) + "\n", encoding="utf-8")
    unseen = labelled.part(training=False)[0]
    quality = group_figures(teacher.scores(encoder.encode(unseen)), unseen)
    ctx.log(f"held-out queries: pair accuracy {quality['pair_accuracy']}, nDCG@10 {quality['ndcg']}")
    return {**figures, "labels": labelled.source, "train_pairs": len(pairs), "held_out": quality}


STEP = Step(
    name="teacher",
    needs=("bi_encoder", "store", "merchandising"),
    settings=TeacherSettings,
    run=run,
    help="training the relevance teacher",
)
