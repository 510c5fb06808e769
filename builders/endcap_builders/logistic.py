"""Logistic regression with soft targets, used by all calibrations."""

import numpy as np
from sklearn.linear_model import LogisticRegression


def fit_logistic(
    features: np.ndarray, targets: np.ndarray, *, intercept: bool, prior: float
) -> tuple[np.ndarray, float]:
    """Fit sigmoid(features @ weights + shift) to targets.

    Args:
        features: float [n, k].
        targets: float [n] in 0..1.
        intercept: whether there is a shift.
        prior: weight of the L2 penalty on the weights (not the shift), as a share of n; prevents an infinite slope for
            separable data.

    Returns:
        weights float64 [k], and the shift (0 without one).
    """
    features, targets = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    # A soft target becomes one case of each class. Without a shift, cases are mirrored, so that both classes occur.
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
