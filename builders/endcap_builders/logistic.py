"""Logistic regression with soft targets: the one fit behind every calibration."""

import numpy as np
from sklearn.linear_model import LogisticRegression


def fit_logistic(
    features: np.ndarray, targets: np.ndarray, *, intercept: bool, prior: float
) -> tuple[np.ndarray, float]:
    """Fit sigmoid(features @ weights + shift) to targets.

    Args:
        features: float [n, k].
        targets: what the model should give, float [n] in 0..1.
        intercept: whether there is a shift.
        prior: weight of a pull of the weights (not of the shift) towards 0, as a share of n: keeps separable data from
            asking for an infinite slope.

    Returns:
        weights float64 [k], and the shift (0 without one).
    """
    features, targets = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    # A soft target is a case of each class; mirrored, so that both classes are there, where there is no shift.
    labels = np.repeat([1, 0], len(features))
    weights = np.concatenate([targets, 1 - targets])
    cases = np.concatenate([features, features])
    if not intercept:
        cases, labels = np.concatenate([cases, -cases]), np.concatenate([labels, 1 - labels])
        weights = np.concatenate([weights, weights]) / 2
    kept = weights > 0
    model = LogisticRegression(C=1 / (prior * len(features)), fit_intercept=intercept, tol=1e-8, max_iter=1000)
    model.fit(cases[kept], labels[kept], weights[kept])
    return model.coef_[0], float(model.intercept_[0]) if intercept else 0.0
