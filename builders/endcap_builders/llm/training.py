"""Training of a student: packed rows of one shape, Muon, bf16 if the CPU supports it, a cosine schedule."""

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from endcap_builders.llm.examples import Example
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


def train(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    examples: list[Example],
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
        examples: what to learn.
        settings: tokens, time, batch size, learning rate.
        seed: of the order of the batches.
        report: called after each step with the share of the budget spent (0..1) and the smoothed loss.
        device: where to train, in bf16 on a GPU; by default the GPU if there is one. The model then returns to the CPU.
        checkpointing: compute activations again in the backward pass, which saves memory; by default on a GPU only.

    Raises:
        ValueError: no example fits into `max_tokens`.
    """
    encoded = encode_examples(tokenizer, examples, settings.max_tokens)
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
        batch = pack(examples_of_rows, width, tokenizer.pad_token_id, settings.prompt_weight).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = weighted_loss(model, batch)
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


Encoded = tuple[np.ndarray[Any, Any], int]
"""Token ids int64 [length] of prompt, completion and end; length of the prompt."""


def encode_examples(tokenizer: PreTrainedTokenizerFast, examples: list[Example], max_tokens: int) -> list[Encoded]:
    """Tokenise prompt and completion apart (as serving does) and end the completion; drop what is too long."""
    prompts = tokenizer([example.prompt for example in examples], add_special_tokens=True)["input_ids"]
    answers = tokenizer([example.completion for example in examples], add_special_tokens=False)["input_ids"]
    encoded = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = [*prompt, *answer, tokenizer.eos_token_id]
        if len(ids) <= max_tokens:
            encoded.append((np.asarray(ids, np.int64), len(prompt)))
    return encoded


@dataclass(frozen=True)
class Packed:
    """Examples packed into B rows of L tokens."""

    ids: Tensor  # int64 [B, L]
    positions: Tensor  # int64 [B, L], from 0 within each example
    mask: Tensor  # bool [B, 1, L, L], true where a token may look: back, within its own example
    weights: (
        Tensor  # float32 [B, L] of each token as a target: 1 answer, prompt_weight prompt, 0 padding and first token
    )

    def to(self, device: torch.device) -> "Packed":
        """The same rows on a device."""
        return Packed(*(tensor.to(device) for tensor in (self.ids, self.positions, self.mask, self.weights)))


def pack(batch: list[list[Encoded]], width: int, pad: int, prompt_weight: float) -> Packed:
    """Pack the examples of each row one after another into `width` tokens."""
    shape = (len(batch), width)
    ids, positions = np.full(shape, pad, np.int64), np.zeros(shape, np.int64)
    owner = np.full(shape, -1, np.int64)
    weights = np.zeros(shape, np.float32)
    for row, examples in enumerate(batch):
        end = 0
        for number, (tokens, prompt) in enumerate(examples):
            start, end = end, end + len(tokens)
            ids[row, start:end] = tokens
            positions[row, start:end] = np.arange(len(tokens))
            owner[row, start:end] = number
            weights[row, start + 1 : start + prompt] = prompt_weight
            weights[row, start + prompt : end] = 1.0
    mask = (owner[:, :, None] == owner[:, None, :]) & np.tril(np.ones((width, width), bool))
    return Packed(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        mask=torch.from_numpy(mask[:, None]),
        weights=torch.from_numpy(weights),
    )


def weighted_loss(model: Any, batch: Packed) -> Tensor:
    """Weighted mean of the cross-entropy of each next token."""
    logits = model(
        input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
    ).logits[:, :-1]
    losses = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), batch.ids[:, 1:].reshape(-1), reduction="none"
    )
    weights = batch.weights[:, 1:].reshape(-1)
    return (losses * weights).sum() / weights.sum().clamp(min=1e-6)


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
