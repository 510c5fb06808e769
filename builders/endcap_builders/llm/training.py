"""Training of a student: packed rows of one shape, Muon, bf16 if the CPU supports it, a cosine schedule."""

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from endcap_builders.llm.muon import Muon
from endcap_builders.llm.student import StudentSettings
from endcap_builders.machine import computes_bf16

_WARM_UP = 0.04
_BETAS = (0.9, 0.98)
_OPEN_ROWS = 8


@dataclass(frozen=True)
class TrainingFigures:
    """Result of a training."""

    steps: int
    epochs: float
    tokens: int
    loss: float
    seconds: float
    left_out: int


Encoded = tuple[np.ndarray[Any, Any], Any]
"""An example: token ids int64 [length], and what its objective needs beside them."""


class Objective(Protocol):
    """What a student learns from its examples."""

    def encode(self, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Any], max_tokens: int) -> list[Encoded]:
        """Tokenise the examples; drop what is too long."""
        ...

    def loss(self, model: Any, rows: list[list[Encoded]], width: int, device: torch.device) -> Tensor:
        """The loss of rows of examples, each at most `width` tokens long in all."""
        ...


def train(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    objective: Objective,
    examples: Sequence[Any],
    settings: StudentSettings,
    seed: int,
    report: Callable[[float, float], None] = lambda done, loss: None,
    device: str | torch.device | None = None,
    checkpointing: bool | None = None,
) -> TrainingFigures:
    """Train `model` in place until `train_tokens` are learned, or `train_seconds` are over.

    The amount of work is fixed, not the time, so that a build gives the same student on any machine that is fast
    enough.

    Args:
        model: a causal LM.
        tokenizer: its tokenizer.
        objective: what to learn.
        examples: of the kind that the objective learns from.
        settings: tokens, time, batch size, learning rate.
        seed: of the order of the batches.
        report: called after each step with the share of the budget spent (0..1) and the smoothed loss.
        device: where to train, in bf16 on a GPU; by default the GPU if there is one. The model then returns to the CPU.
        checkpointing: compute activations again in the backward pass, which saves memory; by default on a GPU only.

    Raises:
        ValueError: no example fits into `max_tokens`, or the loss is not finite.
    """
    encoded = objective.encode(tokenizer, examples, settings.max_tokens)
    if not encoded:
        raise ValueError(
            f"examples: expected some of at most {settings.max_tokens} tokens, got none of {len(examples)}"
        )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    bf16 = device.type != "cpu" or computes_bf16()
    model.to(device)
    checkpointing = device.type != "cpu" if checkpointing is None else checkpointing
    if checkpointing:
        model.gradient_checkpointing_enable()
        # Of an adapter, only parameters inside the layers are trained, and their inputs would have no gradient.
        model.enable_input_require_grads()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizers = make_optimizers(model, settings, torch.bfloat16 if bf16 else torch.float32)
    # One shape for all steps, because compiling a CPU kernel for a new shape takes longer than a step.
    width = -(-max(len(ids) for ids, _ in encoded) // 64) * 64
    count = max(1, settings.tokens_per_step // width)
    rows = endless_rows(encoded, width, random.Random(seed))
    model.train()
    start = time.monotonic()
    step, tokens, smoothed, done = 0, 0, float("nan"), 0.0
    while done < 1.0:
        for optimizer in optimizers:
            _set_rate(optimizer, schedule(done))
        examples_of_rows = list(itertools.islice(rows, count))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = objective.loss(model, examples_of_rows, width, device)
        if not math.isfinite(loss.item()):
            raise ValueError(
                f"the loss became {loss.item()} at step {step}: expected a finite one; lower learning_rate, or check "
                "the weights of the checkpoint"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        tokens += sum(len(ids) for row in examples_of_rows for ids, _ in row)
        smoothed = loss.item() if math.isnan(smoothed) else 0.95 * smoothed + 0.05 * loss.item()
        done = max((time.monotonic() - start) / settings.train_seconds, tokens / settings.train_tokens)
        report(min(done, 1.0), smoothed)
    if checkpointing:
        model.gradient_checkpointing_disable()
        model.disable_input_require_grads()
    model.to("cpu").eval()
    per_epoch = sum(len(ids) for ids, _ in encoded)
    return TrainingFigures(
        steps=step,
        epochs=round(tokens / per_epoch, 2),
        tokens=tokens,
        loss=round(smoothed, 4),
        seconds=round(time.monotonic() - start, 1),
        left_out=len(examples) - len(encoded),
    )


def schedule(done: float) -> float:
    """Learning rate as a share of its peak after a share `done` (0..1) of the budget: linear warm-up, cosine to 2 %."""
    if done < _WARM_UP:
        return max(done / _WARM_UP, 0.02)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))


def endless_rows(encoded: list[Encoded], width: int, rng: random.Random) -> Iterator[list[Encoded]]:
    """Yield rows of examples that fit into `width` tokens together, epoch after epoch in a fresh order."""
    while True:
        order = rng.sample(encoded, len(encoded))
        # Best fit among a few open rows; this wastes about 5 %.
        rows: list[list[Encoded]] = []
        room: list[int] = []
        for item in order:
            fitting = [index for index, free in enumerate(room) if free >= len(item[0])]
            if fitting:
                index = min(fitting, key=room.__getitem__)
            else:
                if len(rows) == _OPEN_ROWS:
                    fullest = min(range(len(room)), key=room.__getitem__)
                    yield rows.pop(fullest)
                    room.pop(fullest)
                rows.append([])
                room.append(width)
                index = len(rows) - 1
            rows[index].append(item)
            room[index] -= len(item[0])
        yield from rows


def make_optimizers(model: Any, settings: StudentSettings, dtype: torch.dtype) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of a model from scratch, AdamW for everything else.

    In the few hundred steps of a minute on two cores, Muon reached a loss of 0.9, AdamW 3.3. For the adaptation of a
    checkpoint, AdamW is sufficient. ``dtype`` is the one in which Muon computes.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    embedding = model.get_input_embeddings().weight
    hidden = [parameter for parameter in trained if parameter.ndim == 2 and parameter is not embedding]
    if settings.checkpoint:
        hidden = []
    taken = {id(parameter) for parameter in hidden}
    others = [parameter for parameter in trained if id(parameter) not in taken]
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([group for group in groups if group["params"]], settings.peak_rate, _BETAS, fused=True)
    ]
    if hidden:
        optimizers.append(Muon(hidden, settings.matrix_learning_rate, dtype=dtype))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def _set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
