"""The teacher: a classifier with soft targets over relevance grades; its score is the expected grade."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from endcap_builders.relevance.checkpoints import load_model, save_model, without_lora
from endcap_builders.relevance.encode import EncodedPairs
from endcap_builders.relevance.inference import predict
from endcap_builders.relevance.labels import soft_targets
from endcap_builders.relevance.pairs import RelevanceError
from endcap_builders.relevance.training import Schedule, Track, fit, length_grouped

GRADES_FILE = "grades.json"


class RelevanceTeacher:
    """A trained teacher."""

    def __init__(self, model: Any, tokenizer: Any, grades: np.ndarray) -> None:
        self.model, self.tokenizer, self.grades = model, tokenizer, grades

    @classmethod
    def open(cls, folder: Path) -> "RelevanceTeacher":
        """Read the files of `save`."""
        path = folder / GRADES_FILE
        if not path.exists():
            raise RelevanceError(
                f"teacher {folder}: expected {GRADES_FILE}, got none; run `endcap build teacher` again"
            )
        grades = np.asarray(json.loads(path.read_text(encoding="utf-8"))["grades"], dtype=np.float64)
        model, tokenizer = load_model(str(folder), labels=len(grades))
        if torch.cuda.is_available():
            model.cuda()
        return cls(model.eval(), tokenizer, grades)

    def save(self, folder: Path) -> None:
        """Write checkpoint (adapters merged into its weights), tokenizer and grades."""
        self.model = without_lora(self.model)
        save_model(self.model, self.tokenizer, folder)
        (folder / GRADES_FILE).write_text(json.dumps({"grades": self.grades.tolist()}) + "\n", encoding="utf-8")

    def scores(self, encoded: EncodedPairs, indices: np.ndarray | None = None) -> np.ndarray:
        """Expected grade of pairs: float32 [n] in 0..1, in the order of `indices` (default: all)."""
        logits = torch.from_numpy(predict(self.model, encoded, indices))
        if not len(logits):
            return np.empty(0, dtype=np.float32)
        expected = torch.softmax(logits, dim=1).double() @ torch.from_numpy(self.grades)
        return expected.float().numpy()


def train_teacher(
    encoded: EncodedPairs,
    model: Any,
    tokenizer: Any,
    *,
    grades: int,
    spread: float,
    schedule: Schedule,
    batch_size: int,
    track: Track,
    folder: Path | None = None,
    validate: Callable[[RelevanceTeacher], float] | None = None,
    device: str | torch.device | None = None,
    checkpointing: bool | None = None,
) -> tuple[RelevanceTeacher, dict[str, Any]]:
    """Train a classifier on labelled pairs (targets in 0..1) by cross-entropy against soft targets.

    Args:
        encoded: the pairs.
        model: a sequence classifier with `grades` outputs, perhaps with LoRA; trained in place.
        tokenizer: its tokenizer.
        grades: classes, equally spaced from 0 to 1.
        spread: spread of a label over grades, see `soft_targets`.
        schedule: steps, seconds, learning rate, evaluations.
        batch_size: pairs per step.
        track: progress bar.
        folder: checkpoints of an interrupted training.
        validate: teacher -> figure on held-out queries, higher is better.
        device: see `fit`, as is ``checkpointing``.
        checkpointing: see there.

    Returns:
        The teacher and the figures of `fit`.
    """
    levels = np.linspace(0, 1, grades)
    targets = torch.from_numpy(soft_targets(encoded.pairs.target, levels, spread))
    units = [np.array([index]) for index in range(len(encoded.pairs))]

    def batches(epoch: int) -> Iterable[np.ndarray]:
        return length_grouped(encoded, units, batch_size, np.random.default_rng((schedule.seed, epoch)))

    def loss(logits: torch.Tensor, indices: np.ndarray) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, targets[torch.from_numpy(indices)].to(logits.device))

    figures = fit(
        model,
        encoded,
        batches,
        loss,
        schedule,
        track,
        "training the teacher",
        folder=folder,
        validate=None if validate is None else lambda trained: validate(RelevanceTeacher(trained, tokenizer, levels)),
        device=device,
        checkpointing=checkpointing,
    )
    return RelevanceTeacher(model, tokenizer, levels), figures
