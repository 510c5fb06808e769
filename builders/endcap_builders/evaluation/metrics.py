"""Figures of a ranking, one per query: nDCG@10 and recall@100 by ir-measures, pairwise accuracy, Spearman."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import ConstantInputWarning, spearmanr

from endcap_builders.evaluation.queries import Judged

NAMES = {
    "ndcg": "nDCG@10",
    "ndcg_exponential": "nDCG@10, 2^g-1",
    "accuracy": "pairwise accuracy",
    "spearman": "Spearman",
    "corpus_ndcg": "nDCG@10, whole corpus",
    "corpus_ndcg_exponential": "nDCG@10, 2^g-1, whole corpus",
    "corpus_recall": "recall@100, whole corpus",
}
_GRAIN = 100
"""trec_eval needs whole gains: a mean grade of 2.67 becomes 267."""


def judged_figures(judged: Judged, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of the order of each query's judged products.

    Args:
        judged: q queries with n pairs.
        scores: float [n]; equal ones are put in a fixed random order.

    Returns:
        ndcg (gain: the grade), ndcg_exponential (gain: 2^(grade - lowest grade) - 1), accuracy (share of the pairs of
        products with different grades that are in the right order; a tie counts half), spearman: float64 [q] each, NaN
        for a query whose products all have one grade, or with one product.
    """
    shuffled = np.random.default_rng(0).permutation(len(scores))
    place = np.empty(len(scores), dtype=np.int64)
    place[shuffled[np.argsort(scores[shuffled], kind="stable")]] = np.arange(len(scores))
    offsets, rows = judged.pairs.offsets, judged.pairs.product
    figures = {name: np.full(len(judged.pairs.queries), math.nan) for name in ("ndcg", "accuracy", "spearman")}
    run: dict[str, dict[str, float]] = {}
    for query, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):  # noqa: RUF007 - start and end
        grade, score = judged.grades[start:end], scores[start:end]
        better, worse = np.nonzero(grade[:, None] > grade[None, :] + 1e-9)
        if not len(better):
            continue
        right = (score[better] > score[worse]).sum() + 0.5 * (score[better] == score[worse]).sum()
        figures["accuracy"][query] = right / len(better)
        with warnings.catch_warnings():
            # All scores equal: no order, and Spearman is not defined.
            warnings.simplefilter("ignore", ConstantInputWarning)
            figures["spearman"][query] = np.nan_to_num(spearmanr(score, grade).statistic)
        run[str(query)] = {str(row): float(at) for row, at in zip(rows[start:end], place[start:end], strict=True)}
    for name, gains in _gains(judged).items():
        figures[f"ndcg{name}"] = _measured("nDCG@10", gains, run, len(judged.pairs.queries))
    return figures


def corpus_figures(judged: Judged, ranked: Sequence[np.ndarray], relevant: float) -> dict[str, np.ndarray]:
    """Figures of a ranking of the whole corpus.

    Args:
        judged: q queries.
        ranked: product rows of each query, best first, int [at most 100] each.
        relevant: relevance from which a product counts for recall.

    Returns:
        corpus_ndcg and corpus_ndcg_exponential (an unjudged product has gain 0), corpus_recall: float64 [q] each, NaN
        for a query without a relevant product.
    """
    run = {
        str(query): {str(row): float(len(rows) - place) for place, row in enumerate(rows)}
        for query, rows in enumerate(ranked)
    }
    wanted = _qrels(judged, (judged.pairs.target >= relevant).astype(np.int64))
    found = {query: products for query, products in wanted.items() if any(products.values())}
    return {
        **{
            f"corpus_ndcg{name}": _measured("nDCG@10", gains, run, len(ranked))
            for name, gains in _gains(judged).items()
        },
        "corpus_recall": _measured("R@100", found, run, len(ranked)),
    }


def _gains(judged: Judged) -> dict[str, dict[str, dict[str, int]]]:
    """Gains of both kinds, by the suffix of the figure's name."""
    kinds = {"": judged.grades, "_exponential": 2.0 ** np.maximum(judged.grades - judged.lowest, 0) - 1}
    return {name: _qrels(judged, np.rint(gains * _GRAIN).astype(np.int64)) for name, gains in kinds.items()}


def _qrels(judged: Judged, gains: np.ndarray) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for query, row, gain in zip(judged.pairs.query, judged.pairs.product, gains, strict=True):
        qrels.setdefault(str(query), {})[str(row)] = int(gain)
    return qrels


def _measured(name: str, qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Any], queries: int) -> np.ndarray:
    import ir_measures

    values = np.full(queries, math.nan)
    asked = {query: products for query, products in run.items() if query in qrels}
    judged = {query: products for query, products in qrels.items() if query in run}
    for metric in ir_measures.iter_calc([ir_measures.parse_measure(name)], judged, asked):
        values[int(metric.query_id)] = metric.value
    return values
