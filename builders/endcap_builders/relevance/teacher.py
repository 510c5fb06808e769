"""The teacher: a classifier with soft targets over relevance grades; its score is the expected grade."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from endcap_builders.relevance.encode import EncodedPairs
from endcap_builders.relevance.pairs import RelevanceError
from endcap_builders.relevance.training import (
    Schedule,
    Track,
    fit,
    length_grouped,
    load_model,
    predict,
    save_model,
)

GRADES_FILE = "grades.json"


def soft_targets(relevance: np.ndarray, grades: np.ndarray) -> np.ndarray:
    """Turn graded labels into distributions over grades, by linear interpolation between the two neighbouring grades.

    A label of 0.4 between the grades 1/3 and 2/3 becomes 0.8 and 0.2: the expected grade of the distribution is the
    label. The paper (arXiv 2505.07105) uses soft targets without disclosing its mapping; this one is ours.

    Args:
        relevance: float [n] in 0..1.
        grades: ascending, float [g], from 0 to 1, g >= 2.

    Returns:
        float32 [n, g], rows sum to 1.
    """
    relevance = np.asarray(relevance, dtype=np.float64)
    if not np.isfinite(relevance).all() or (len(relevance) and (relevance.min() < 0 or relevance.max() > 1)):
        raise RelevanceError("soft targets: expected relevance in 0..1, got values outside or NaN; scale the labels")
    upper = np.clip(np.searchsorted(grades, relevance, side="right"), 1, len(grades) - 1)
    share = (relevance - grades[upper - 1]) / (grades[upper] - grades[upper - 1])
    targets = np.zeros((len(relevance), len(grades)), dtype=np.float32)
    rows = np.arange(len(relevance))
    targets[rows, upper - 1] = 1 - share
    targets[rows, upper] += share
    return targets


class Teacher:
    """A trained teacher."""

    def __init__(self, model: Any, tokenizer: Any, grades: np.ndarray) -> None:
        self.model, self.tokenizer, self.grades = model, tokenizer, grades

    @classmethod
    def open(cls, folder: Path) -> "Teacher":
        """Read what `save` wrote."""
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
        """Write checkpoint, tokenizer and grades."""
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
    schedule: Schedule,
    batch_size: int,
    rng: np.random.Generator,
    track: Track,
) -> tuple[Teacher, dict[str, float]]:
    """Train a classifier on labelled pairs (targets in 0..1) by cross-entropy against soft targets."""
    levels = np.linspace(0, 1, grades)
    targets = torch.from_numpy(soft_targets(encoded.pairs.target, levels))
    units = [np.array([index]) for index in range(len(encoded.pairs))]
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def batches(epoch: int) -> Iterable[np.ndarray]:
        return length_grouped(encoded, units, batch_size, rng)

    def loss(logits: torch.Tensor, indices: np.ndarray) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, targets[torch.from_numpy(indices)].to(device))

    figures = fit(model, encoded, batches, loss, schedule, track, "training the teacher")
    return Teacher(model, tokenizer, levels), figures
