"""Trains the relevance teacher: a classifier with soft targets that grades (query, product) pairs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from endcap_server.shop.store import ItemStore

from endcap_builders.gates import write_gates
from endcap_builders.pretrained.checkpoints import checkpoint_of
from endcap_builders.relevance.checkpoints import freeze_embeddings, load_model, with_lora
from endcap_builders.relevance.data import draw_labelled, pair_encoder, read_labelled
from endcap_builders.relevance.encode import EncodedPairs, PairEncoder
from endcap_builders.relevance.gates import relevance_gates
from endcap_builders.relevance.labels import LABELS_FILE, LabelScale
from endcap_builders.relevance.measure import group_figures
from endcap_builders.relevance.pairs import Pairs
from endcap_builders.relevance.reliability import reliability
from endcap_builders.relevance.settings import TeacherSettings
from endcap_builders.relevance.teacher import RelevanceTeacher, train_teacher
from endcap_builders.relevance.training import Schedule, steps_of, tell_if_cut
from endcap_builders.relevance.warm_up import warm_up_pairs
from endcap_builders.step import BuildContext


def build_teacher(ctx: BuildContext, settings: TeacherSettings) -> dict[str, Any]:
    """Write checkpoint, tokenizer, grades.json, and labels.json (settings of the labels, for the student)."""
    rng = np.random.default_rng(ctx.seed)
    store = ItemStore.open(ctx.build, linked=False)
    scale = LabelScale.parse(settings.label_values)
    labelled = read_labelled(ctx, store, settings.weak_queries, settings.held_out_share, scale)
    pairs = draw_labelled(ctx, store, labelled, settings, rng)
    ctx.log(f"{len(pairs):,} pairs of {len(pairs.queries):,} queries ({labelled.source})")
    unseen = labelled.part(training=False)[0]
    warm = warm_up_pairs(ctx, store, labelled, settings.warm_up_pairs, np.random.default_rng((ctx.seed, 4)))
    teacher, encoder, figures = teach(ctx, settings, store, pairs, unseen, ctx.work / "checkpoints", warm=warm)
    teacher.save(ctx.output)
    shared = settings.model_dump(include={"weak_queries", "held_out_share", "label_values"})
    (ctx.output / LABELS_FILE).write_text(json.dumps(shared) + "\n", encoding="utf-8")
    held_out = encoder.encode(unseen)
    quality = teacher_figures(teacher, held_out)
    write_gates(ctx.output, relevance_gates(ctx, "teacher", store, unseen, teacher.scores(held_out)))
    ctx.log(
        "held-out queries: pair accuracy {pair_accuracy}, nDCG@10 {ndcg}, calibration error {ece}".format(**quality)
    )
    return {**figures, "labels": labelled.source, "train_pairs": len(pairs), "held_out": quality}


def teach(
    ctx: BuildContext,
    settings: TeacherSettings,
    store: ItemStore,
    pairs: Pairs,
    unseen: Pairs,
    folder: Path,
    max_product_tokens: int = 0,
    warm: Pairs | None = None,
) -> tuple[RelevanceTeacher, PairEncoder, dict[str, Any]]:
    """Train a teacher.

    Args:
        ctx: context of the build; its seed is used for training.
        settings: settings of the teacher.
        store: the products.
        pairs: labelled pairs to train on.
        unseen: held-out pairs, for `settings.evaluations`.
        folder: checkpoints of an interrupted training.
        max_product_tokens: a product is cut here; 0: as the item store has it.
        warm: pairs of the warm-up, see `warm_up`.

    Returns:
        The teacher, its tokenised products, and the figures of the training.
    """
    torch.manual_seed(ctx.seed)
    checkpoint = checkpoint_of("teacher.checkpoint", settings.checkpoint)
    model, tokenizer = load_model(checkpoint, labels=settings.grades, layers=settings.layers)
    if settings.lora_rank:
        model = with_lora(model, settings.lora_rank)
    elif not settings.train_embeddings:
        freeze_embeddings(model)
    encoder = pair_encoder(ctx, store, tokenizer)
    encoder = encoder.cut(max_product_tokens) if max_product_tokens else encoder
    if warm is not None and len(warm):
        ctx.log(f"warming up on {len(warm):,} mined pairs")
        model = warmed_up(ctx, settings, model, tokenizer, encoder.encode(warm), folder / "warm-up")
    held_out = encoder.encode(unseen)
    schedule = Schedule(
        max_steps=steps_of(len(pairs), settings.epochs, settings.batch_size),
        max_seconds=settings.train_seconds,
        learning_rate=settings.learning_rate,
        seed=ctx.seed,
        evaluations=settings.evaluations,
        patience=settings.patience,
    )
    teacher, figures = train_teacher(
        encoder.encode(pairs),
        model,
        tokenizer,
        grades=settings.grades,
        spread=settings.label_spread,
        schedule=schedule,
        batch_size=settings.batch_size,
        track=ctx.track,
        folder=folder,
        validate=(lambda trained: group_figures(trained.scores(held_out), unseen)["pair_accuracy"])
        if len(unseen)
        else None,
    )
    tell_if_cut(ctx, figures, schedule)
    return teacher, encoder, figures


def warmed_up(
    ctx: BuildContext, settings: TeacherSettings, model: Any, tokenizer: Any, encoded: EncodedPairs, folder: Path
) -> Any:
    """The model after one pass over pairs of `warm_up_pairs`."""
    schedule = Schedule(
        max_steps=steps_of(len(encoded.pairs), 1.0, settings.batch_size),
        max_seconds=settings.train_seconds,
        learning_rate=settings.learning_rate,
        seed=ctx.seed,
    )
    train_teacher(
        encoded,
        model,
        tokenizer,
        grades=settings.grades,
        spread=settings.label_spread,
        schedule=schedule,
        batch_size=settings.batch_size,
        track=ctx.track,
        folder=folder,
    )
    return model


def teacher_figures(teacher: RelevanceTeacher, unseen: EncodedPairs) -> dict[str, Any]:
    """Order quality and calibration of a teacher on held-out pairs."""
    scores = teacher.scores(unseen)
    return {**group_figures(scores, unseen.pairs), **reliability(scores, unseen.pairs.target)}
