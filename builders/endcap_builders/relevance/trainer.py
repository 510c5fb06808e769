"""transformers' Trainer for pairs: loss of a batch of pairs, time limit, figures on held-out queries."""

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import get_last_checkpoint

from endcap_builders.relevance.inference import logits_of

FIGURE = "held_out"
"""Name of the figure for early stopping."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        max_steps: steps of the optimizer.
        max_seconds: time limit.
        learning_rate: the peak; linear to and from it.
        seed: seed of dropout.
        evaluations: number of evaluations on held-out queries, evenly spaced; the best weights are kept. 0: none, the
            last weights are kept.
        patience: evaluations without an improvement after which training ends.
        checkpoint_seconds: time between two checkpoints, from which an interrupted training continues.
    """

    max_steps: int
    max_seconds: float
    learning_rate: float
    seed: int = 0
    evaluations: int = 0
    patience: int = 3
    checkpoint_seconds: float = 300.0
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_norm: float = 1.0


def training_device(device: str | torch.device | None = None) -> torch.device:
    """Where to train: by default the GPU if there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def arguments(
    schedule: Schedule, folder: Path, *, evaluated: bool, device: torch.device, checkpointing: bool
) -> TrainingArguments:
    """Trainer's options for a `Schedule`; without reports and downloads."""
    every = max(1, math.ceil(schedule.max_steps / max(1, schedule.evaluations)))
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=schedule.max_steps,
        max_grad_norm=schedule.max_norm,
        seed=schedule.seed,
        use_cpu=device.type == "cpu",
        gradient_checkpointing=checkpointing,
        # The older kind would need inputs with a gradient, which a frozen embedding does not give.
        gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        # `logits_of` casts only the body; Trainer's casting would round the head's logits, too.
        bf16=False,
        eval_strategy="steps" if evaluated else "no",
        eval_steps=every if evaluated else None,
        # Without evaluations, only the clock requests checkpoints.
        save_strategy="steps" if evaluated else "no",
        save_steps=every,
        save_total_limit=1,
        load_best_model_at_end=evaluated,
        metric_for_best_model=FIGURE if evaluated else None,
        greater_is_better=True if evaluated else None,
        restore_callback_states_from_checkpoint=True,
        # Our batches start where the checkpoint ended, so there is nothing to skip.
        ignore_data_skip=True,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )


def last_checkpoint(folder: Path) -> str | None:
    """The checkpoint from which to continue."""
    found: str | None = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    return found if found and os.path.exists(os.path.join(found, "trainer_state.json")) else None


class Clock(TrainerCallback, ExportableState):
    """Ends training at its time limit and requests checkpoints; its state is in the checkpoints."""

    def __init__(self, max_seconds: float, checkpoint_seconds: float) -> None:
        self.max_seconds, self.checkpoint_seconds = max_seconds, checkpoint_seconds
        self.used, self.pairs = 0.0, 0
        self._start = self._saved = time.monotonic()

    def seconds(self) -> float:
        """Seconds so far, including those before an interruption."""
        return self.used + time.monotonic() - self._start

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock; loading and resuming before do not count."""
        self._start = self._saved = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Request a stop or a checkpoint if it is time."""
        if self.seconds() >= self.max_seconds:
            control.should_training_stop = True
        elif args.eval_strategy == "no" and time.monotonic() - self._saved > self.checkpoint_seconds:
            control.should_save = True
            self._saved = time.monotonic()

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {
            "args": {"max_seconds": self.max_seconds, "checkpoint_seconds": self.checkpoint_seconds},
            "attributes": {"used": self.seconds(), "pairs": self.pairs},
        }


class _Bar(TrainerCallback):
    """Moves a progress bar."""

    def __init__(self, bar: Iterable[Any]) -> None:
        self._bar = iter(bar)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        next(self._bar, None)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for close in filter(None, [getattr(self._bar, "close", None)]):
            close()


class PairTrainer(Trainer):
    """Trainer with batches, loss and evaluation as functions."""

    def __init__(
        self,
        model: Any,
        options: TrainingArguments,
        *,
        batches: Callable[[int], Iterable[dict[str, Any]]],
        loss: Callable[[torch.Tensor, np.ndarray], torch.Tensor],
        optimizer: torch.optim.Optimizer,
        rate: Callable[[int, float], float],
        clock: Clock,
        progress: Iterable[Any],
        validate: Callable[[Any], float] | None,
        patience: int,
    ) -> None:
        """Set the arguments of `fit`.

        Args:
            model: trained in place.
            options: options from `arguments`.
            batches: number of the first batch -> model inputs and `indices` int64 [b] of all following batches.
            loss: (logits, indices) -> scalar.
            optimizer: of the model's parameters.
            rate: (step, seconds) -> share of the peak learning rate.
            clock: the time limit.
            progress: advanced with each step.
            validate: model -> figure, higher is better.
            patience: evaluations without an improvement after which training ends.
        """
        self._batches, self._pair_loss, self._validate, self._losses = batches, loss, validate, list[float]()
        self.evaluations: list[tuple[int, float]] = []
        self._first_clock = clock
        stopper = [EarlyStoppingCallback(patience)] if validate else []
        # Trainer needs some evaluation data set; `evaluate` does not use it.
        held_out: Any = [] if validate else None
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, self.clock.seconds()))
        super().__init__(
            model,
            options,
            train_dataset=_Stream(batches, self),
            eval_dataset=held_out,
            callbacks=[clock, _Bar(progress), *stopper],
            optimizers=(optimizer, scheduler),
        )
        self.remove_callback(PrinterCallback)

    @property
    def clock(self) -> Clock:
        """The clock; after resuming, the one of the checkpoint."""
        handler = getattr(self, "callback_handler", None)
        found = [each for each in handler.callbacks if isinstance(each, Clock)] if handler else []
        return found[0] if found else self._first_clock

    def get_train_dataloader(self) -> DataLoader:
        """The batches without changes."""
        return DataLoader(self.train_dataset, batch_size=None)  # type: ignore[arg-type]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The given loss of a batch.

        Raises:
            FloatingPointError: it is not finite.
        """
        indices = inputs.pop("indices").cpu().numpy()
        logits = logits_of(model, inputs)
        value = self._pair_loss(logits, indices)
        self._losses.append(float(value.detach()))
        self.clock.pairs += len(indices)
        if not math.isfinite(self._losses[-1]):
            raise FloatingPointError(f"the loss became {self._losses[-1]} at step {self.state.global_step}")
        return (value, {"logits": logits}) if return_outputs else value

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The figure on held-out queries."""
        if self._validate is None:
            return {}
        metrics = {f"eval_{FIGURE}": float(self._validate(self.model))}
        self.evaluations.append((self.state.global_step, round(metrics[f"eval_{FIGURE}"], 4)))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Floating-point operations are not counted, because that takes longer than a small model's step on a GPU."""
        return 0

    def figures(self) -> dict[str, Any]:
        """Figures of the training; see `fit`."""
        tenth = max(1, len(self._losses) // 10)
        found: dict[str, Any] = {
            "steps": self.state.global_step,
            "pairs": self.clock.pairs,
            "seconds": round(self.clock.seconds(), 1),
            "first_loss": round(float(np.mean(self._losses[:tenth])), 4) if self._losses else 0.0,
            "last_loss": round(float(np.mean(self._losses[-tenth:])), 4) if self._losses else 0.0,
        }
        if self._validate is not None:
            counters = [each for each in self.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]
            found["evaluations"] = [list(each) for each in self.evaluations]
            found["best_step"] = self.state.best_global_step
            found["stopped_early"] = any(
                each.early_stopping_patience_counter >= each.early_stopping_patience for each in counters
            )
        return found


class _Stream(torch.utils.data.IterableDataset[dict[str, Any]]):
    """The batches after the steps that a trainer has done."""

    def __init__(self, batches: Callable[[int], Iterable[dict[str, Any]]], trainer: Trainer) -> None:
        self._batches, self._trainer = batches, trainer

    def __iter__(self) -> Any:
        return iter(self._batches(self._trainer.state.global_step))
