"""What is compared: orders of judged products, and rankings of the whole corpus, by retrievers and by rerankers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from endcap_builders.evaluation.metrics import corpus_figures, judged_figures
from endcap_builders.evaluation.queries import Judged
from endcap_builders.relevance.mining import Lexical, dense_top
from endcap_builders.relevance.pairs import Pairs, make_pairs

RETURNED = 100
Score = Callable[[Pairs], np.ndarray]
"""Scores float [n] of pairs."""


@dataclass(frozen=True)
class Protocol:
    """The queries, and the candidates that rerankers order where the whole corpus is ranked.

    Attributes:
        judged: every query, for the order of its judged products.
        corpus: those for which the whole corpus is ranked.
        lexical: products that BM25 finds for each of these, best first.
        dense: the same of the bi-encoder.
        relevant: relevance from which a product counts for recall.
        candidates: union of both, as pairs.
    """

    judged: Judged
    corpus: Judged
    lexical: list[np.ndarray]
    dense: list[np.ndarray]
    relevant: float
    candidates: Pairs

    @classmethod
    def of(
        cls, judged: Judged, corpus: Judged, lexical: Lexical, encode: Callable[[list[str]], np.ndarray],
        vectors: np.ndarray, depth: int, relevant: float,
    ) -> "Protocol":  # fmt: skip
        """Retrieve candidates.

        Args:
            judged: all queries.
            corpus: queries for which the whole corpus is ranked.
            lexical: BM25 over the products.
            encode: texts -> unit vectors float [q, D].
            vectors: of the products, float [n, D].
            depth: candidates of each retriever.
            relevant: relevance from which a product counts for recall.
        """
        queries = corpus.pairs.queries
        found = lexical.top(queries, max(depth, RETURNED)) if queries else []
        near = dense_top(encode(queries), vectors, max(depth, RETURNED)) if queries else []
        both = [np.union1d(one[:depth], other[:depth]) for one, other in zip(found, near, strict=True)]
        texts = [text for text, rows in zip(queries, both, strict=True) for _ in rows]
        rows = np.concatenate([np.empty(0, np.int64), *both])
        return cls(judged, corpus, found, near, relevant, make_pairs(texts, rows, np.full(len(rows), np.nan)))

    def of_scores(self, judged_scores: np.ndarray, candidate_scores: np.ndarray | None) -> dict[str, np.ndarray]:
        """Figures of a system by its scores of the judged pairs and, if it reranks, of the candidates."""
        figures = judged_figures(self.judged, judged_scores)
        if candidate_scores is None or not len(self.candidates):
            return figures
        offsets = self.candidates.offsets
        ranked = [
            self.candidates.product[start:end][np.argsort(-candidate_scores[start:end], kind="stable")][:RETURNED]
            for start, end in zip(offsets[:-1], offsets[1:], strict=True)  # noqa: RUF007 - read as start and end
        ]
        return {**figures, **corpus_figures(self.corpus, ranked, self.relevant)}

    def of_ranking(self, judged_scores: np.ndarray, ranked: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Figures of a retriever by its scores of the judged pairs and its ranking of the corpus."""
        figures = judged_figures(self.judged, judged_scores)
        if not ranked:
            return figures
        return {**figures, **corpus_figures(self.corpus, [rows[:RETURNED] for rows in ranked], self.relevant)}


def baselines(
    protocol: Protocol, lexical: Lexical, encode: Callable[[list[str]], np.ndarray], vectors: np.ndarray, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Figures of random order, BM25 and the bi-encoder."""
    rng, pairs = np.random.default_rng(seed), protocol.judged.pairs
    anything = [rng.choice(len(vectors), min(RETURNED, len(vectors)), replace=False) for _ in protocol.dense]
    similar = (encode(pairs.queries)[pairs.query] * np.asarray(vectors[pairs.product], np.float32)).sum(axis=1)
    return {
        "random": protocol.of_ranking(rng.random(len(pairs)), anything),
        "BM25": protocol.of_ranking(lexical.scores(pairs), protocol.lexical),
        "bi-encoder": protocol.of_ranking(similar, protocol.dense),
    }
