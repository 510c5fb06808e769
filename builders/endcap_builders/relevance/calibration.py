"""Calibration of a student's logits to relevance in 0..1 and to the probability of preference over another product."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from endcap_builders.logistic import fit_logistic
from endcap_builders.relevance.pairs import RelevanceError

CALIBRATION_FILE = "calibration.json"
_PRIOR = 1e-3
"""Weight of a weak penalty on slopes; prevents an infinite slope for separable data."""


@dataclass(frozen=True)
class FittedCalibration:
    """Relevance of logit s: `sigmoid(scale * s + bias)`; preference of i to j: `sigmoid((s_i - s_j) / temperature)`."""

    scale: float
    bias: float
    temperature: float

    def relevance(self, logits: np.ndarray) -> np.ndarray:
        """Relevance in 0..1, float64, of logits of any shape."""
        return _sigmoid(self.scale * np.asarray(logits, dtype=np.float64) + self.bias)

    def save(self, folder: Path) -> None:
        """Write `calibration.json`."""
        (folder / CALIBRATION_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> "FittedCalibration":
        """Read `calibration.json`."""
        return cls(**json.loads((folder / CALIBRATION_FILE).read_text(encoding="utf-8")))


def calibrate(logits: np.ndarray, relevance: np.ndarray, offsets: np.ndarray) -> FittedCalibration:
    """Fit scale and bias to relevance, temperature to preferences within groups.

    Args:
        logits: student logits of held-out pairs, float [n].
        relevance: labels of people, or else of the teacher, float [n] in 0..1.
        offsets: groups of the same query: int [g + 1].

    Raises:
        RelevanceError: values that are not finite, relevance outside 0..1, fewer than two pairs, or logits that are the
            same for all pairs.
    """
    logits, relevance = np.asarray(logits, dtype=np.float64), np.asarray(relevance, dtype=np.float64)
    if len(logits) < 2 or logits.shape != relevance.shape:
        raise RelevanceError(
            f"calibration: expected two or more held-out pairs with a label each, got {logits.shape} logits and "
            f"{relevance.shape} labels; raise held_out_share or add judgements"
        )
    if not np.isfinite(logits).all() or not np.isfinite(relevance).all() or relevance.min() < 0 or relevance.max() > 1:
        raise RelevanceError(
            "calibration: expected finite logits and relevance in 0..1, got NaN, infinity or values outside; "
            "build the student again with a lower learning_rate"
        )
    spread = float(logits.std())
    if spread < 1e-9:
        raise RelevanceError("calibration: expected different logits, got the same for all pairs; train longer")
    # In units of the logits' standard deviation, so that start and prior do not depend on the student.
    standard = (logits - logits.mean()) / spread
    (slope,), offset = fit_logistic(standard[:, None], relevance, intercept=True, prior=_PRIOR)
    slope = max(slope, 1e-3)
    differences = np.concatenate([np.empty(0), *_preferences(standard, relevance, offsets)])
    steepness = slope
    if len(differences):
        (steepness,), _ = fit_logistic(differences[:, None], np.ones(len(differences)), intercept=False, prior=_PRIOR)
    return FittedCalibration(
        scale=float(slope / spread),
        bias=float(offset - slope * logits.mean() / spread),
        temperature=float(spread / max(steepness, 1e-3)),
    )


def _preferences(scores: np.ndarray, relevance: np.ndarray, offsets: np.ndarray) -> Iterator[np.ndarray]:
    """Score differences (better minus worse) of all pairs of a group that differ in relevance."""
    for start, end in zip(offsets[:-1], offsets[1:], strict=True):  # noqa: RUF007 - read as start and end
        better, worse = np.nonzero(relevance[start:end, None] > relevance[None, start:end] + 1e-6)
        yield scores[start:end][better] - scores[start:end][worse]


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -values))
