"""Step `teacher`: a classifier with soft targets that grades (query, product) pairs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from endcap_server.shop.store import ItemStore
from pydantic import Field

from endcap_builders.catalogue.groups import JUDGEMENTS, TEXTS
from endcap_builders.gates import write_gates
from endcap_builders.relevance.checkpoints import freeze_embeddings, load_model, with_lora
from endcap_builders.relevance.data import THEME_PRODUCTS, SampleSettings, draw_labelled, pair_encoder, read_labelled
from endcap_builders.relevance.encode import EncodedPairs, PairEncoder
from endcap_builders.relevance.gates import relevance_gates
from endcap_builders.relevance.labels import LabelScale
from endcap_builders.relevance.measure import group_figures
from endcap_builders.relevance.pairs import Pairs, RelevanceError
from endcap_builders.relevance.reliability import reliability
from endcap_builders.relevance.teacher import RelevanceTeacher, train_teacher
from endcap_builders.relevance.training import Schedule, steps_of, tell_if_cut
from endcap_builders.relevance.warm_up import warm_up_pairs
from endcap_builders.step import BuildContext, Step
from endcap_builders.steps.store import TEXTS_ONLY

LABELS_FILE = "labels.json"


class TeacherSettings(SampleSettings):
    """Options of the relevance teacher."""

    checkpoint: str = Field(
        "",
        description="Hugging Face checkpoint to start from, an encoder or a language model; empty: the packaged MiniLM",
    )
    layers: int = Field(0, ge=0, description="transformer layers to keep, from the bottom; 0: all")
    lora_rank: int = Field(0, ge=0, le=512, description="train adapters of this rank (language models); 0: all weights")
    train_embeddings: bool = Field(True, description="train the token embeddings too: half of a small encoder")
    label_values: str = Field(
        "",
        description="relevance of each label, e.g. '1:0 2:0.3 3:0.7 4:1', linear between; empty: lowest 0, highest 1",
    )
    grades: int = Field(4, ge=2, le=20, description="relevance grades between which labels are interpolated")
    label_spread: float = Field(
        0.0, ge=0, le=3, description="grades by which a label is spread (a normal curve); 0: the two neighbours only"
    )
    held_out_share: float = Field(0.1, gt=0, lt=0.5, description="share of the queries kept for calibration")
    weak_queries: int = Field(600, ge=2, description="queries made from the catalogue where nobody has judged any")
    warm_up_pairs: int = Field(
        0, ge=0, description="mined pairs on which it learns to judge as the bi-encoder does before it sees labels"
    )
    epochs: float = Field(2.2, gt=0, description="passes over the pairs")
    train_seconds: float = Field(300.0, gt=0, description="training ends after this time even within a pass")
    evaluations: int = Field(
        0, ge=0, le=1000, description="looks at held-out queries while training, of which the best stays; 0: the last"
    )
    patience: int = Field(3, ge=1, description="looks without a better figure after which training ends")
    batch_size: int = Field(32, ge=2, description="pairs per step")
    learning_rate: float = Field(2e-4, gt=0, le=1e-2, description="peak learning rate")


def run(ctx: BuildContext, settings: TeacherSettings) -> dict[str, Any]:
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


def labels_of(folder: Path) -> dict[str, Any]:
    """Settings of the labels of a teacher's training, for the student and evaluations.

    Args:
        folder: folder of the teacher.

    Raises:
        RelevanceError: there is no teacher.
    """
    path = folder / LABELS_FILE
    if not path.exists():
        raise RelevanceError(f"{path}: expected a trained teacher, got none; run `endcap build teacher` first")
    shared: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    # Older builds have no scale.
    return {"label_values": "", **shared}


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
    model, tokenizer = load_model(settings.checkpoint, labels=settings.grades, layers=settings.layers)
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


STEP = Step(
    name="teacher",
    needs=("catalogue", "bi_encoder", "store", "merchandising"),
    settings=TeacherSettings,
    run=run,
    on_refresh="learned",
    help="training the relevance teacher",
    reads={"catalogue": (TEXTS, JUDGEMENTS), "store": TEXTS_ONLY, "merchandising": (THEME_PRODUCTS,)},
)
