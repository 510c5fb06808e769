"""How well scores order held-out pairs."""

import numpy as np

from endcap_builders.relevance.pairs import Pairs


def query_accuracy(scores: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Share of each query's pairs of products, differing in relevance, that scores (float [n]) put in the right order.

    Returns:
        float64 [q], a tie counts half; NaN where a query's products are all alike.
    """
    values = np.full(len(pairs.queries), np.nan)
    offsets = pairs.offsets
    for query, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):  # noqa: RUF007 - start and end
        score, target = scores[start:end], pairs.target[start:end]
        better, worse = np.nonzero(target[:, None] > target[None, :] + 1e-6)
        if len(better):
            values[query] = np.mean((score[better] > score[worse]) + 0.5 * (score[better] == score[worse]))
    return values


def group_figures(scores: np.ndarray, pairs: Pairs, depth: int = 10) -> dict[str, float]:
    """Quality of scores (float [n]) on labelled pairs.

    Returns:
        pairs; pair_accuracy: share of the pairs of products of one query, differing in relevance, that are in the right
        order (a tie counts half); ndcg: linear gains, mean over the queries that have a relevant product.
    """
    right, total, gains = 0.0, 0, []
    offsets = pairs.offsets
    for start, end in zip(offsets[:-1], offsets[1:], strict=True):  # noqa: RUF007 - read as start and end
        score, target = scores[start:end], pairs.target[start:end]
        better, worse = np.nonzero(target[:, None] > target[None, :] + 1e-6)
        right += float(((score[better] > score[worse]) + 0.5 * (score[better] == score[worse])).sum())
        total += len(better)
        if end > start and target.max() > 0:
            discount = 1 / np.log2(np.arange(2, min(depth, end - start) + 2))
            best = np.sort(target)[::-1][:depth]
            gains.append(float(target[np.argsort(-score, kind="stable")][:depth] @ discount / (best @ discount)))
    return {
        "pairs": len(pairs),
        "pair_accuracy": round(right / total, 4) if total else 0.0,
        "ndcg": round(float(np.mean(gains)), 4) if gains else 0.0,
    }
