"""Pairwise margin scoring in NumPy: the expected share of wins of a product against the other candidates of its text.

For a cross-encoder trained on margins (arXiv 2505.07105), differences of scores mean more than their level.
"""

import numpy as np

from endcap_server.shop.columns import Array

_MAX_EXPONENT = np.float32(80.0)  # exp of more than 88 overflows float32


def pairwise_margins(scores: Array, temperature: float, valid: Array | None = None) -> Array:
    """Return the expected share of wins, ``mean over j != i of sigmoid((s_i - s_j) / temperature)``.

    Args:
        scores: float [T, M], one row a text; only differences within a row matter.
        temperature: score difference that counts as a win of 73 %; more than 0.
        valid: bool [T, M], entries that exist; by default those that are not NaN.

    Returns:
        float32 [T, M] in 0..1; 0.5 for the only candidate of a row, NaN where not valid.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    scores = np.asarray(scores, np.float32)
    valid = ~np.isnan(scores) if valid is None else np.asarray(valid, np.bool_)
    margins = np.full(scores.shape, np.nan, np.float32)
    for line in range(len(scores)):
        existing = np.flatnonzero(valid[line])
        margins[line, existing] = _margins_of_group(scores[line, existing], np.float32(temperature))
    return margins


def _margins_of_group(scores: Array, temperature: np.float32) -> Array:
    count = len(scores)
    if count < 2:
        return np.full(count, 0.5, np.float32)
    exponent = np.clip((scores[None, :] - scores[:, None]) / temperature, -_MAX_EXPONENT, _MAX_EXPONENT)
    wins = 1.0 / (1.0 + np.exp(exponent))
    # Every product ties with itself; subtract that half.
    return ((wins.sum(axis=1, dtype=np.float32) - 0.5) / np.float32(count - 1)).astype(np.float32)
