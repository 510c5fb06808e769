"""The reliability curve and the expected calibration error of a teacher."""

from typing import Any

import numpy as np

BINS = 10


def reliability(scores: np.ndarray, relevance: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """Compare predicted with labelled relevance in bins of the prediction.

    Args:
        scores: predicted relevance, float [n] in 0..1.
        relevance: what people say, float [n] in 0..1.
        bins: bins of equal width.

    Returns:
        ece: mean distance between predicted and labelled relevance of a bin, weighted by its pairs; curve: for each bin
        that has pairs [mean predicted, mean labelled, pairs].
    """
    scores, relevance = np.asarray(scores, dtype=np.float64), np.asarray(relevance, dtype=np.float64)
    place = np.clip((scores * bins).astype(np.int64), 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    used = counts > 0
    predicted = np.bincount(place, scores, bins)[used] / counts[used]
    labelled = np.bincount(place, relevance, bins)[used] / counts[used]
    error = float(np.abs(predicted - labelled) @ counts[used] / max(1, len(scores)))
    return {
        "ece": round(error, 4),
        "curve": [
            [round(float(p), 4), round(float(q), 4), int(n)]
            for p, q, n in zip(predicted, labelled, counts[used], strict=True)
        ],
    }
