"""Converts labels of any scale to relevance in 0..1, and relevance to a distribution over grades."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from endcap_builders.relevance.pairs import RelevanceError

LABELS_FILE = "labels.json"
"""Settings of the labels of a teacher's training."""


@dataclass(frozen=True)
class LabelScale:
    """Maps labels to relevance: linear between known points, refused outside them.

    Attributes:
        labels: the known labels, ascending; empty: the lowest label that occurs is 0, the highest is 1.
        relevance: 0..1, of each of them.
    """

    labels: tuple[float, ...] = ()
    relevance: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "LabelScale":
        """Read "1:0 2:0.2 3:0.6 4:1": label and relevance, separated by spaces; "" for the empty scale.

        Raises:
            RelevanceError: anything else.
        """
        points: list[tuple[float, float]] = []
        for part in text.split():
            label, colon, value = part.partition(":")
            try:
                points.append((float(label), float(value if colon else "nan")))
            except ValueError:
                points.append((float("nan"), float("nan")))
        points.sort()
        known, values = tuple(label for label, _ in points), tuple(value for _, value in points)
        wrong = len(points) == 1 or not all(np.isfinite(known)) or not all(0 <= value <= 1 for value in values)
        if wrong or len(set(known)) < len(known):
            raise RelevanceError(
                f"label_values: expected two or more different LABEL:RELEVANCE with relevance in 0..1, such as "
                f"'1:0 2:0.3 3:1', got {text!r}"
            )
        return cls(known, values)

    def apply(self, labels: np.ndarray, source: str) -> np.ndarray:
        """Relevance of labels, float64 [n] -> float64 [n].

        Args:
            labels: the labels.
            source: their source, for error messages.

        Raises:
            RelevanceError: a label is missing or outside the scale; or without a scale, all labels are equal.
        """
        labels = np.asarray(labels, dtype=np.float64)
        if not np.isfinite(labels).all():
            row = int(np.flatnonzero(~np.isfinite(labels))[0])
            raise RelevanceError(f"{source}, row {row}: expected a number as relevance, got {labels[row]}")
        if self.labels:
            outside = np.flatnonzero((labels < self.labels[0]) | (labels > self.labels[-1]))
            if len(outside):
                row = int(outside[0])
                raise RelevanceError(
                    f"{source}, row {row}: expected a label in {self.labels[0]:g}..{self.labels[-1]:g}, the scale of "
                    f"the setting label_values, got {labels[row]:g}; correct the label or the scale"
                )
            return np.interp(labels, self.labels, self.relevance)
        low, high = (float(labels.min()), float(labels.max())) if len(labels) else (0.0, 0.0)
        if low == high:
            raise RelevanceError(
                f"{source}: expected at least two different grades, got only {low:g}; "
                "add pairs of another grade, or remove the file to train on weak labels"
            )
        return (labels - low) / (high - low)


def soft_targets(relevance: np.ndarray, grades: np.ndarray, spread: float = 0.0) -> np.ndarray:
    """Turn graded labels into distributions over grades.

    With `spread` 0, by linear interpolation between the two neighbouring grades: a label of 0.4 between the grades 1/3
    and 2/3 becomes 0.8 and 0.2, so that the expected grade of the distribution is the label. Otherwise, by a normal
    curve around the label, which models the disagreement of raters. The paper (arXiv 2505.07105) uses soft targets
    without disclosing its mapping; these are ours.

    Args:
        relevance: float [n] in 0..1.
        grades: ascending and equally spaced, float [g], from 0 to 1, g >= 2.
        spread: standard deviation of the normal curve, in distances of neighbouring grades.

    Returns:
        float32 [n, g], rows sum to 1.
    """
    relevance = np.asarray(relevance, dtype=np.float64)
    if not np.isfinite(relevance).all() or (len(relevance) and (relevance.min() < 0 or relevance.max() > 1)):
        raise RelevanceError("soft targets: expected relevance in 0..1, got values outside or NaN; scale the labels")
    if spread > 0:
        away = (relevance[:, None] - grades[None]) * (len(grades) - 1) / spread
        weight = np.exp(-0.5 * (away**2 - (away**2).min(axis=1, keepdims=True)))
        return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    upper = np.clip(np.searchsorted(grades, relevance, side="right"), 1, len(grades) - 1)
    share = (relevance - grades[upper - 1]) / (grades[upper] - grades[upper - 1])
    targets = np.zeros((len(relevance), len(grades)), dtype=np.float32)
    rows = np.arange(len(relevance))
    targets[rows, upper - 1] = 1 - share
    targets[rows, upper] += share
    return targets


UNIT = LabelScale((0.0, 1.0), (0.0, 1.0))
"""The scale of labels that are relevance already."""


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
