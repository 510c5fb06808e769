"""Training of teacher and student: transformers' Trainer on batches of pairs of similar length, bounded in time.

Our code adds batches that keep the products of a query together, and a time limit. A build must end on time on a
machine of unknown speed, so the learning rate decreases with the faster of steps and seconds. Trainer does optimizer
steps, checkpoints, resuming, early stopping and the return to the best checkpoint.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from endcap_builders.relevance.checkpoints import quiet
from endcap_builders.relevance.encode import EncodedPairs
from endcap_builders.relevance.pairs import RelevanceError
from endcap_builders.relevance.trainer import Clock, PairTrainer, Schedule, arguments, last_checkpoint, training_device
from endcap_builders.step import BuildContext

__all__ = ["Batches", "Loss", "Schedule", "Track", "fit", "length_grouped", "steps_of", "tell_if_cut"]

Track = Callable[..., Iterable[Any]]
Batches = Callable[[int], Iterable[np.ndarray]]
"""Number of an epoch -> indices int [b] of each of its batches. It is deterministic, so that an interrupted training
continues with the next batch."""
Loss = Callable[[torch.Tensor, np.ndarray], torch.Tensor]
"""(logits float32 [b, labels], indices int [b]) -> scalar."""


def fit(
    model: Any,
    encoded: EncodedPairs,
    batches: Batches,
    loss: Loss,
    schedule: Schedule,
    track: Track,
    description: str,
    *,
    folder: Path | None = None,
    validate: Callable[[Any], float] | None = None,
    device: str | torch.device | None = None,
    checkpointing: bool | None = None,
) -> dict[str, Any]:
    """Train the model.

    Args:
        model: maps a batch of `encoded` to `.logits`; trained in place.
        encoded: the pairs.
        batches: batches of an epoch.
        loss: loss of a batch.
        schedule: steps, seconds, learning rate, evaluations.
        track: shows a progress bar over an iterable, as `BuildContext.track`.
        description: text of the progress bar.
        folder: checkpoints; training continues from the last one. None: no checkpoints.
        validate: model -> figure on held-out queries, higher is better; for `schedule.evaluations`.
        device: where to train, in bf16 on a GPU; by default the GPU if there is one.
        checkpointing: compute activations again in the backward pass, which saves memory; by default on a GPU only, for
            models that support it.

    Returns:
        steps, pairs, seconds, first_loss and last_loss (means over a tenth of the steps); with evaluations also
        `evaluations`: [step, figure] of each, and best_step.

    Raises:
        RelevanceError: the loss is not finite.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="endcap-training-") as temporary:
            return fit(model, encoded, batches, loss, schedule, track, description, folder=Path(temporary),
                       validate=validate, device=device, checkpointing=checkpointing)  # fmt: skip
    evaluated = bool(schedule.evaluations and validate)
    place = training_device(device)
    if checkpointing is None:
        checkpointing = place.type != "cpu" and bool(getattr(model, "supports_gradient_checkpointing", False))
    trainer = PairTrainer(
        model,
        arguments(schedule, folder, evaluated=evaluated, device=place, checkpointing=checkpointing),
        batches=lambda first: _inputs(encoded, batches, schedule.max_steps, first),
        loss=loss,
        optimizer=_optimizer(model, schedule),
        rate=lambda step, seconds: _rate(schedule, step, seconds),
        clock=Clock(schedule.max_seconds, schedule.checkpoint_seconds),
        progress=track(range(schedule.max_steps), description, schedule.max_steps),
        validate=validate if evaluated else None,
        patience=schedule.patience,
    )
    try:
        with quiet():
            trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    except FloatingPointError as error:
        raise RelevanceError(f"{description}: {error}; lower learning_rate") from None
    if checkpointing:
        model.gradient_checkpointing_disable()
    model.eval()
    return trainer.figures()


def steps_of(pairs: int, epochs: float, batch_size: int, least: int = 1) -> int:
    """Optimizer steps of a number of passes over the pairs, at least `least`."""
    return max(1, least, round(epochs * pairs / batch_size))


def tell_if_cut(ctx: BuildContext, figures: dict[str, Any], schedule: Schedule) -> None:
    """Log that the time limit ended a training: on a busy machine it can have learned very little."""
    if figures["steps"] < schedule.max_steps and not figures.get("stopped_early"):
        ctx.log(
            f"training was ended by train_seconds={schedule.max_seconds:g} after {figures['steps']:.0f} of "
            f"{schedule.max_steps} steps; raise it, or lower max_pairs, for a better model"
        )


def length_grouped(
    encoded: EncodedPairs, units: list[np.ndarray], batch_size: int, rng: np.random.Generator
) -> Iterable[np.ndarray]:
    """Batches of about `batch_size` pairs of similar length, in random order.

    Args:
        encoded: the pairs.
        units: indices that must stay together (a single pair, or the products of a query), each int [k].
        batch_size: pairs per batch; a unit is never split.
        rng: shuffles the units among similar lengths, and the batches.
    """
    width = np.array([encoded.lengths[unit].mean() for unit in units])
    order = np.argsort(width * rng.uniform(0.85, 1.15, len(units)), kind="stable")
    batches: list[list[np.ndarray]] = [[]]
    size = 0
    for index in order:
        if size and size + len(units[index]) > batch_size:
            batches.append([])
            size = 0
        batches[-1].append(units[index])
        size += len(units[index])
    for index in rng.permutation(len(batches)):
        if batches[index]:
            yield np.concatenate(batches[index])


def _inputs(encoded: EncodedPairs, batches: Batches, steps: int, first: int) -> Iterator[dict[str, Any]]:
    """Model inputs of consecutive epochs, up to `steps` batches, without the first ones."""
    done, epoch = 0, 0
    while done < steps:
        before = done
        for indices in batches(epoch):
            if done == steps:
                return
            if done >= first:
                yield {**encoded.batch(indices), "indices": torch.from_numpy(indices)}
            done += 1
        if done == before:
            return
        epoch += 1


def _rate(schedule: Schedule, step: int, seconds: float) -> float:
    """Share of the peak learning rate: linear warm-up, then linear decrease to 0."""
    used = min(1.0, max(step / schedule.max_steps, seconds / schedule.max_seconds))
    return max(0.0, min((used + 1e-3) / schedule.warmup, (1 - used) / (1 - schedule.warmup)))


def _optimizer(model: Any, schedule: Schedule) -> torch.optim.Optimizer:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decay, plain = [p for p in learning if p.ndim > 1], [p for p in learning if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": schedule.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, fused=True)
