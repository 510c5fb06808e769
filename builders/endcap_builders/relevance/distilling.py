"""Trains the served student on the teacher's margins, calibrates and exports it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from endcap_server.engines.cross_encoder import MAX_TEXT_TOKENS
from endcap_server.shop.store import ItemStore

from endcap_builders.export.encoder import BERT_INPUTS, export_cross_encoder
from endcap_builders.export.onnx import export_cross_encoder_onnx
from endcap_builders.export.tensorrt import compile_engine, require_tensorrt
from endcap_builders.gates import write_gates
from endcap_builders.manifest import read_manifest
from endcap_builders.pretrained.checkpoints import checkpoint_of
from endcap_builders.pretrained.models import DEFAULT
from endcap_builders.relevance.augmentation import draw_searches, mine_searches
from endcap_builders.relevance.calibration import calibrate
from endcap_builders.relevance.checkpoints import freeze_embeddings, load_model, save_model
from endcap_builders.relevance.data import (
    Labelled,
    draw_held_out,
    draw_labelled,
    pair_encoder,
    read_labelled,
    same_vocabulary,
)
from endcap_builders.relevance.encode import PairEncoder
from endcap_builders.relevance.gates import relevance_gates
from endcap_builders.relevance.inference import predict
from endcap_builders.relevance.judge import Judge
from endcap_builders.relevance.labelling import label_pairs
from endcap_builders.relevance.labels import LabelScale, labels_of
from endcap_builders.relevance.measure import group_figures
from endcap_builders.relevance.pairs import Pairs, RelevanceError, add_random_negatives, among, merge_pairs, without
from endcap_builders.relevance.settings import CrossEncoderSettings
from endcap_builders.relevance.student import (
    ElementwiseHead,
    head_from_teacher,
    replace_output_layer,
    require_encoder,
    student_targets,
    train_student,
)
from endcap_builders.relevance.training import Schedule, steps_of, tell_if_cut
from endcap_builders.step import BuildContext


def build_cross_encoder(ctx: BuildContext, settings: CrossEncoderSettings) -> dict[str, Any]:
    """Write the checkpoint, model.xml, tokenizer.json, calibration.json; for a GPU also model.onnx and model.plan."""
    if ctx.profile == "gpu":
        require_tensorrt()
    shared = labels_of(ctx.input("teacher"))
    store = ItemStore.open(ctx.build, linked=False)
    judge = Judge(ctx.input("teacher"), ctx.build, ctx.catalogue_folder)
    scale = LabelScale.parse(shared["label_values"])
    labelled = read_labelled(ctx, store, shared["weak_queries"], shared["held_out_share"], scale)
    model, tokenizer = start(ctx, settings, judge)
    if not same_vocabulary(store, tokenizer):
        raise RelevanceError(
            f"cross_encoder.checkpoint {settings.checkpoint!r}: expected the vocabulary of the item store's product "
            "tokens, got another; the item store has to be built with this checkpoint's tokenizer: run "
            f"`endcap build store --out {ctx.build} --set store.tokenizer={settings.checkpoint or _teacher_of(ctx)}`, "
            "then build the rest"
        )
    require_encoder(model)
    encoder = pair_encoder(ctx, store, tokenizer)
    human, mined = _training_pairs(ctx, settings, store, labelled, judge)
    ctx.log(f"{len(human) + len(mined):,} pairs, {len(mined):,} of them mined")
    unseen = draw_held_out(labelled, settings.held_out_pairs, np.random.default_rng((ctx.seed, 4)))
    figures = distil(ctx, settings, model, encoder, human, mined, unseen, ctx.work / "checkpoints")
    quality, scores = _calibrate(ctx, settings, unseen, len(store), judge, model, encoder)
    write_gates(ctx.output, relevance_gates(ctx, "cross_encoder", store, unseen, scores))
    write_student(ctx.output, model, tokenizer)
    if ctx.profile == "gpu":
        _compile(ctx, MAX_TEXT_TOKENS + store.max_product_tokens + encoder.format.extra)
    return {**figures, "labelled_pairs": len(human), "mined_pairs": len(mined), "held_out": quality}


def _teacher_of(ctx: BuildContext) -> str:
    """What the build's teacher was made of."""
    return str(read_manifest(ctx.build)["steps"]["teacher"]["settings"]["checkpoint"] or DEFAULT)


def start(ctx: BuildContext, settings: CrossEncoderSettings, judge: Judge) -> tuple[Any, Any]:
    """The student before training, and its tokenizer. A student from the teacher's layers also gets a head from it."""
    torch.manual_seed(ctx.seed)
    if settings.checkpoint:
        checkpoint = checkpoint_of("cross_encoder.checkpoint", settings.checkpoint)
        model, tokenizer = load_model(checkpoint, labels=1, layers=settings.layers)
    else:
        model, tokenizer = load_model(str(judge.teacher), labels=1, layers=settings.layers)
        head_from_teacher(model, judge.open()[0])
    if not settings.train_embeddings:
        freeze_embeddings(model)
    return model, tokenizer


def distil(
    ctx: BuildContext,
    settings: CrossEncoderSettings,
    model: Any,
    encoder: PairEncoder,
    labelled: Pairs,
    mined: Pairs,
    unseen: Pairs,
    folder: Path,
) -> dict[str, Any]:
    """Train a student in place.

    Args:
        ctx: context of the build; its seed is used for training.
        settings: settings of the student.
        model: model from `start`.
        encoder: the tokenised products.
        labelled: pairs labelled by people.
        mined: pairs labelled by the teacher.
        unseen: held-out pairs, for `settings.evaluations`.
        folder: checkpoints of an interrupted training.

    Returns:
        The figures of the training.
    """
    pairs = merge_pairs([labelled, mined])
    passes = np.where(among(pairs, labelled), settings.labelled_passes, 1)
    held_out = encoder.encode(unseen)
    schedule = Schedule(
        max_steps=steps_of(int(passes.sum()), settings.epochs, settings.batch_size, settings.least_steps),
        max_seconds=settings.train_seconds,
        learning_rate=settings.learning_rate,
        seed=ctx.seed,
        evaluations=settings.evaluations,
        patience=settings.patience,
    )
    figures = train_student(
        encoder.encode(pairs.with_target(student_targets(pairs.target, settings.target))),
        model,
        anchor=settings.anchor,
        group_size=settings.group_size,
        schedule=schedule,
        batch_size=settings.batch_size,
        track=ctx.track,
        passes=passes,
        folder=folder,
        validate=(lambda student: group_figures(predict(student, held_out)[:, 0], unseen)["pair_accuracy"])
        if len(unseen)
        else None,
    )
    tell_if_cut(ctx, figures, schedule)
    return figures


def _training_pairs(
    ctx: BuildContext, settings: CrossEncoderSettings, store: ItemStore, labelled: Labelled, judge: Judge
) -> tuple[Pairs, Pairs]:
    """Labelled pairs with targets mixed with the teacher's scores, and mined pairs with the teacher's scores."""
    # Separate generators, so that draws are the same after an interruption and labelled shards can be reused.
    human = draw_labelled(ctx, store, labelled, settings, np.random.default_rng((ctx.seed, 1)))
    rng = np.random.default_rng((ctx.seed, 2))
    searches = draw_searches(store, labelled, settings.queries_for(len(human)), rng)
    mined = without(mine_searches(ctx, store, searches, settings, rng), human)
    if settings.human_weight < 1:
        human = towards_teacher(human, judge, settings.human_weight)
    return human, label_pairs(
        mined,
        judge,
        ctx.work / "labelling",
        ctx.track,
        shard_pairs=settings.shard_pairs,
        ray_address=settings.ray,
        say=ctx.log,
    )


def towards_teacher(human: Pairs, judge: Judge, human_weight: float) -> Pairs:
    """Labelled pairs with targets: `human_weight` times the label, the rest times the teacher's score."""
    return human.with_target(human_weight * human.target + (1 - human_weight) * judge.judge(human))


def _calibrate(
    ctx: BuildContext,
    settings: CrossEncoderSettings,
    unseen: Pairs,
    products: int,
    judge: Judge,
    model: Any,
    encoder: PairEncoder,
) -> tuple[dict[str, Any], np.ndarray]:
    """Write calibration.json from queries that neither teacher nor student has seen.

    Returns:
        The figures, and the student's logits of `unseen`, float32 [n].
    """
    if len(unseen) < 2:
        raise RelevanceError(
            f"cross_encoder: expected held-out queries to calibrate on, got {len(unseen)} pairs; raise "
            "teacher.held_out_share, or judge more"
        )
    rng = np.random.default_rng((ctx.seed, 3))
    with_random = add_random_negatives(unseen, products, settings.random_negatives, rng)
    logits = predict(model, encoder.encode(with_random))[:, 0]
    calibration = calibrate(logits, with_random.target, with_random.offsets)
    calibration.save(ctx.output)
    # Quality is that of graded products only: random negatives are too easy.
    scores = logits[among(with_random, unseen)]
    quality: dict[str, Any] = {
        "student": group_figures(scores, unseen),
        "teacher": group_figures(judge.judge(unseen), unseen),
        "calibrated_mean_error": round(float(np.abs(calibration.relevance(logits) - with_random.target).mean()), 4),
    }
    for name in ("student", "teacher"):
        ctx.log("held-out queries, {}: pair accuracy {pair_accuracy}, nDCG@10 {ndcg}".format(name, **quality[name]))
    return quality, scores


def write_student(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write the files for serving on a CPU: the checkpoint, model.xml, tokenizer.json."""
    model.config.num_labels = 1
    save_model(model, tokenizer, folder)
    trained, inputs = _for_export(folder)
    export_cross_encoder(trained, folder / "model.xml", inputs)
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    backend.save(str(folder / "tokenizer.json"))


def _compile(ctx: BuildContext, longest: int) -> None:
    """Write the additional files for serving on a GPU: model.onnx, model.plan."""
    onnx = ctx.output / "model.onnx"
    trained, inputs = _for_export(ctx.output)
    export_cross_encoder_onnx(trained, onnx, inputs=inputs)
    ctx.log("compiling the TensorRT engine, which takes minutes")
    compile_engine(onnx, ctx.output / "model.plan", inputs, longest)


def _for_export(folder: Path) -> tuple[Any, tuple[str, ...]]:
    """A checkpoint with fused attention, which exporters need (training uses plain attention), and its inputs."""
    model, tokenizer = load_model(str(folder), labels=1, fused=True)
    replace_output_layer(model, ElementwiseHead)
    return model, tuple(name for name in BERT_INPUTS if name in tokenizer.model_input_names)
