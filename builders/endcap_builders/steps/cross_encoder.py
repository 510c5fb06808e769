"""Step `cross_encoder`: the student that serving runs, trained on the teacher's margins, calibrated and exported."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from endcap_server.engines.cross_encoder import MAX_TEXT_TOKENS
from endcap_server.store import ItemStore
from pydantic import Field

from endcap_builders.export.encoder import export_cross_encoder
from endcap_builders.export.onnx import export_cross_encoder_onnx
from endcap_builders.export.tensorrt import compile_engine, require_tensorrt
from endcap_builders.pipeline import BuildContext, Step
from endcap_builders.relevance.calibration import calibrate
from endcap_builders.relevance.data import (
    DEPTH,
    Labelled,
    SampleSettings,
    draw_labelled,
    nearest,
    pair_encoder,
    product_texts,
    read_labelled,
    same_vocabulary,
)
from endcap_builders.relevance.encode import PairEncoder
from endcap_builders.relevance.labelling import label_pairs
from endcap_builders.relevance.measure import group_figures
from endcap_builders.relevance.mining import Lexical, Shares, mine
from endcap_builders.relevance.pairs import (
    Pairs,
    RelevanceError,
    add_random_negatives,
    held_out,
    make_pairs,
    merge_pairs,
)
from endcap_builders.relevance.student import ElementwiseHead, head_from_teacher, train_student
from endcap_builders.relevance.teacher import Teacher
from endcap_builders.relevance.training import Schedule, load_model, predict, save_model, tell_if_cut
from endcap_builders.steps.teacher import LABELS_FILE


class CrossEncoderSettings(SampleSettings):
    """Options of the cross-encoder student."""

    checkpoint: str = Field(
        "",
        description="Hugging Face checkpoint to start from; empty: the teacher's layers, minilm: the packaged weights",
    )
    layers: int = Field(6, ge=0, description="transformer layers to keep, from the bottom; 0: all; fewer serve faster")
    human_weight: float = Field(
        1.0,
        ge=0,
        le=1,
        description="weight of a label against the teacher's score; below 1 the teacher reads labelled pairs too",
    )
    mined_queries: int = Field(150, ge=0, description="searched texts whose candidates the teacher labels")
    mined_group: int = Field(16, ge=2, le=200, description="candidates of each of these")
    dense_share: float = Field(0.5, ge=0, le=1, description="share of the candidates that the bi-encoder finds")
    lexical_share: float = Field(0.25, ge=0, le=1, description="share that BM25 finds; the rest is random")
    shard_pairs: int = Field(1024, ge=1, description="pairs the teacher labels between two savings")
    anchor: float = Field(0.3, ge=0, description="weight of the pointwise loss beside the margins")
    group_size: int = Field(16, ge=2, le=200, description="products of a query compared in one step")
    epochs: float = Field(1.0, gt=0, description="passes over the pairs")
    train_seconds: float = Field(300.0, gt=0, description="training ends after this time even within a pass")
    batch_size: int = Field(32, ge=2, description="pairs per step")
    learning_rate: float = Field(1e-4, gt=0, le=1e-2, description="peak learning rate")


def run(ctx: BuildContext, settings: CrossEncoderSettings) -> dict[str, Any]:
    """Write the checkpoint, model.xml, tokenizer.json, calibration.json; for a GPU also model.onnx and model.plan."""
    if ctx.profile == "gpu":
        require_tensorrt()
    torch.manual_seed(ctx.seed)
    shared = json.loads((ctx.input("teacher") / LABELS_FILE).read_text(encoding="utf-8"))
    store = ItemStore.open(ctx.build, linked=False)
    teacher = Teacher.open(ctx.input("teacher"))
    judge = Judge(teacher, pair_encoder(ctx, store, teacher.tokenizer))
    labelled = read_labelled(ctx, store, shared["weak_queries"], shared["held_out_share"])
    model, tokenizer = _start(ctx, settings, teacher)
    if not same_vocabulary(store, tokenizer):
        raise RelevanceError(
            f"cross_encoder.checkpoint {settings.checkpoint!r}: expected the vocabulary of the item store's product "
            "tokens, got another; set store.tokenizer to this checkpoint's tokenizer.json and build again"
        )
    encoder = pair_encoder(ctx, store, tokenizer)

    human, mined = _training_pairs(ctx, settings, store, labelled, judge)
    pairs = merge_pairs([human, mined])
    schedule = Schedule(
        max_steps=max(1, round(settings.epochs * len(pairs) / settings.batch_size)),
        max_seconds=settings.train_seconds,
        learning_rate=settings.learning_rate,
    )
    ctx.log(f"{len(pairs):,} pairs of {len(pairs.queries):,} queries, {len(mined):,} of them mined")
    figures = train_student(
        encoder.encode(pairs),
        model,
        anchor=settings.anchor,
        group_size=settings.group_size,
        schedule=schedule,
        batch_size=settings.batch_size,
        rng=np.random.default_rng(ctx.seed),
        track=ctx.track,
    )
    tell_if_cut(ctx, figures, schedule)
    quality = _calibrate(ctx, settings, labelled, len(store), judge, model, encoder)
    _write(ctx, model, tokenizer, MAX_TEXT_TOKENS + store.max_product_tokens + 3)
    return {**figures, "labelled_pairs": len(human), "mined_pairs": len(mined), "held_out": quality}


@dataclass(frozen=True)
class Judge:
    """The teacher with its own view of the products."""

    teacher: Teacher
    encoder: PairEncoder

    def scores(self, pairs: Pairs) -> np.ndarray:
        """Teacher scores of all pairs, float32 [n]."""
        return self.teacher.scores(self.encoder.encode(pairs))

    def label(self, ctx: BuildContext, pairs: Pairs, name: str, shard_pairs: int) -> Pairs:
        """The pairs with the teacher's scores as targets; resumes what an interrupted build has labelled."""
        encoded = self.encoder.encode(pairs)
        unlabelled = pairs.with_target(np.full(len(pairs), np.nan))

        def score(indices: np.ndarray) -> np.ndarray:
            return self.teacher.scores(encoded, indices)

        return label_pairs(unlabelled, score, ctx.work / name, ctx.track, shard_pairs=shard_pairs)


def _start(ctx: BuildContext, settings: CrossEncoderSettings, teacher: Teacher) -> tuple[Any, Any]:
    """The student before training; one that starts from the teacher also starts with its head."""
    if settings.checkpoint:
        name = "" if settings.checkpoint == "minilm" else settings.checkpoint
        return load_model(name, labels=1, layers=settings.layers)
    model, tokenizer = load_model(str(ctx.input("teacher")), labels=1, layers=settings.layers)
    head_from_teacher(model, teacher)
    return model, tokenizer


def _training_pairs(
    ctx: BuildContext, settings: CrossEncoderSettings, store: ItemStore, labelled: Labelled, judge: Judge
) -> tuple[Pairs, Pairs]:
    """Labelled pairs, their targets drawn towards the teacher's scores, and mined pairs with the teacher's alone."""
    # Generators of their own: what is drawn is the same after an interruption, so that labelled shards fit.
    human = draw_labelled(ctx, store, labelled, settings, np.random.default_rng((ctx.seed, 1)))
    if settings.human_weight < 1:
        scores = judge.label(ctx, human, "labelled", settings.shard_pairs).target
        human = human.with_target(settings.human_weight * human.target + (1 - settings.human_weight) * scores)
    mined = _mine(ctx, settings, store, labelled, np.random.default_rng((ctx.seed, 2)))
    known = make_pairs([], np.empty(0, np.int32), np.empty(0, np.float32))
    return human, judge.label(ctx, mined, "mined", settings.shard_pairs) if len(mined) else known


def _mine(
    ctx: BuildContext, settings: CrossEncoderSettings, store: ItemStore, labelled: Labelled, rng: np.random.Generator
) -> Pairs:
    """Candidates of searched texts, drawn by how often they are searched, and of judged queries; none held out."""
    judged = labelled.part(training=True)[0]
    counts = np.asarray(store.keyword_counts, dtype=np.float64)
    texts = [*store.keywords, *judged.queries]
    usual = np.sqrt(counts.mean() + 1) if len(counts) else 1.0
    weights = np.concatenate([np.sqrt(counts + 1), np.full(len(judged.queries), usual)])
    weights[held_out(texts, labelled.held_out_share)] = 0
    count = min(settings.mined_queries, int((weights > 0).sum()))
    drawn: list[int] = rng.choice(len(texts), count, replace=False, p=weights / weights.sum()).tolist() if count else []
    queries = sorted({texts[index] for index in drawn})
    if not queries:
        return make_pairs([], np.empty(0, np.int32), np.empty(0, np.float32))
    return mine(
        queries,
        nearest(ctx, store, queries),
        Lexical(product_texts(ctx, store)).top(queries, DEPTH),
        len(store),
        Shares(settings.dense_share, settings.lexical_share),
        settings.mined_group,
        rng,
    )


def _calibrate(
    ctx: BuildContext,
    settings: CrossEncoderSettings,
    labelled: Labelled,
    products: int,
    judge: Judge,
    model: Any,
    encoder: PairEncoder,
) -> dict[str, Any]:
    """Write calibration.json from queries that neither teacher nor student has seen."""
    unseen = merge_pairs(list(labelled.part(training=False)))
    if len(unseen) < 2:
        raise RelevanceError(
            f"cross_encoder: expected held-out queries to calibrate on, got {len(unseen)} pairs of "
            f"{len(labelled.judged.queries)} judged queries; raise teacher.held_out_share, or judge more"
        )
    rng = np.random.default_rng((ctx.seed, 3))
    with_random = add_random_negatives(unseen, products, settings.random_negatives, rng)
    logits = predict(model, encoder.encode(with_random))[:, 0]
    calibration = calibrate(logits, with_random.target, with_random.offsets)
    calibration.save(ctx.output)
    quality: dict[str, Any] = {
        "student": group_figures(predict(model, encoder.encode(unseen))[:, 0], unseen),
        "teacher": group_figures(judge.scores(unseen), unseen),
        "calibrated_mean_error": round(float(np.abs(calibration.relevance(logits) - with_random.target).mean()), 4),
    }
    for name in ("student", "teacher"):
        ctx.log("held-out queries, {}: pair accuracy {pair_accuracy}, nDCG@10 {ndcg}".format(name, **quality[name]))
    return quality


def _write(ctx: BuildContext, model: Any, tokenizer: Any, longest: int) -> None:
    model.config.num_labels = 1
    save_model(model, tokenizer, ctx.output)
    # Loaded again with fused attention, which the exporter turns into one operation; training uses the plain one.
    exported, _ = load_model(str(ctx.output), labels=1, attention="sdpa")
    if isinstance(exported.classifier, torch.nn.Linear):
        exported.classifier = ElementwiseHead(exported.classifier)
    export_cross_encoder(exported, ctx.output / "model.xml")
    if ctx.profile == "gpu":
        onnx = ctx.output / "model.onnx"
        inputs = export_cross_encoder_onnx(exported, onnx)
        ctx.log("compiling the TensorRT engine, which takes minutes")
        compile_engine(onnx, ctx.output / "model.plan", inputs, longest)
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    backend.save(str(ctx.output / "tokenizer.json"))


STEP = Step(
    name="cross_encoder",
    needs=("bi_encoder", "store", "merchandising", "teacher"),
    settings=CrossEncoderSettings,
    run=run,
    help="distilling and exporting the cross-encoder",
)
