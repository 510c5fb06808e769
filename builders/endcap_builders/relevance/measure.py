"""Quality of the order of held-out pairs."""

import ir_measures
import numpy as np

from endcap_builders.relevance.pairs import Pairs

_GRAIN = 1000
"""trec_eval needs whole gains: a relevance of 0.667 becomes 667."""


def query_accuracy(scores: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Share of each query's product pairs with different relevance that scores (float [n]) order correctly.

    Returns:
        float64 [q], a tie counts half; NaN for a query whose products all have the same relevance.
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
        pairs; pair_accuracy: share of the product pairs of a query with different relevance that are in the right order
        (a tie counts half); ndcg: linear gains, mean over the queries with a relevant product.
    """
    right, total = 0.0, 0
    offsets = pairs.offsets
    for start, end in zip(offsets[:-1], offsets[1:], strict=True):  # noqa: RUF007 - read as start and end
        score, target = scores[start:end], pairs.target[start:end]
        better, worse = np.nonzero(target[:, None] > target[None, :] + 1e-6)
        right += float(((score[better] > score[worse]) + 0.5 * (score[better] == score[worse])).sum())
        total += len(better)
    return {
        "pairs": len(pairs),
        "pair_accuracy": round(right / total, 4) if total else 0.0,
        "ndcg": _ndcg(scores, pairs, depth),
    }


def _ndcg(scores: np.ndarray, pairs: Pairs, depth: int) -> float:
    """Mean nDCG of the queries with a relevant product; 0 without any."""
    qrels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for query, row, target, score in zip(pairs.query, pairs.product, pairs.target, scores, strict=True):
        qrels.setdefault(str(query), {})[str(row)] = round(float(target) * _GRAIN)
        run.setdefault(str(query), {})[str(row)] = float(score)
    relevant = {query: products for query, products in qrels.items() if any(products.values())}
    asked = {query: products for query, products in run.items() if query in relevant}
    if not relevant:
        return 0.0
    return round(
        float(ir_measures.calc_aggregate([ir_measures.nDCG @ depth], relevant, asked)[ir_measures.nDCG @ depth]), 4
    )
