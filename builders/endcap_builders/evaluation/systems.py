"""The compared systems: orders of judged products and rankings of the whole corpus, by retrievers and rerankers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from endcap_server.engines.lexical import LexicalIndex
from endcap_server.stages.candidates import fuse
from endcap_server.stages.nearest_client import Words
from endcap_server.stages.retrieval_parameters import RetrievalParameters

from endcap_builders.evaluation.metrics import corpus_figures, judged_figures
from endcap_builders.evaluation.queries import Judged
from endcap_builders.relevance.mining import Lexical, dense_top
from endcap_builders.relevance.pairs import Pairs, make_pairs

RETURNED = 100
Score = Callable[[Pairs], np.ndarray]
"""Scores float [n] of pairs."""


@dataclass(frozen=True)
class Protocol:
    """The queries, and the candidates that rerankers order for rankings of the whole corpus.

    Attributes:
        judged: every query, for the order of its judged products.
        corpus: those for which the whole corpus is ranked.
        lexical: products that BM25 finds for each of these, best first.
        dense: the same for the bi-encoder.
        relevant: relevance from which a product counts for recall.
        candidates: candidates that `search` selects from vectors and words, as pairs.
    """

    judged: Judged
    corpus: Judged
    lexical: list[np.ndarray]
    dense: list[np.ndarray]
    relevant: float
    candidates: Pairs

    @classmethod
    def of(
        cls, judged: Judged, corpus: Judged, lexical: Lexical, words: LexicalIndex,
        encode: Callable[[list[str]], np.ndarray], vectors: np.ndarray, depth: int, relevant: float,
    ) -> "Protocol":  # fmt: skip
        """Retrieve candidates.

        Args:
            judged: all queries.
            corpus: queries for which the whole corpus is ranked.
            lexical: BM25 over the products, the baseline.
            words: the build's lexical index, which serves.
            encode: texts -> unit vectors float [q, D].
            vectors: of the products, float [n, D].
            depth: candidates of a query.
            relevant: relevance from which a product counts for recall.
        """
        queries = corpus.pairs.queries
        found = lexical.top(queries, max(depth, RETURNED)) if queries else []
        encoded = encode(queries) if queries else np.empty((0, vectors.shape[1]), np.float32)
        near = dense_top(encoded, vectors, max(depth, RETURNED))
        served = [
            served_candidates(words, vectors, *of_query, depth) for of_query in zip(queries, encoded, near, strict=True)
        ]
        texts = [text for text, rows in zip(queries, served, strict=True) for _ in rows]
        rows = np.concatenate([np.empty(0, np.int64), *served])
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


@dataclass(frozen=True)
class Searched:
    """The answers of a running server's `search`.

    Attributes:
        ranked: rows of the products of each query, best first: int64 [at most 100] each.
        ms: round trips, float64 [queries].
        degraded: queries with a fallback in some stage.
        pairs: products of each query that the cross-encoder is to score, int64 [queries].
    """

    ranked: list[np.ndarray]
    ms: np.ndarray
    degraded: int
    pairs: np.ndarray

    def scores(self, pairs: Pairs) -> np.ndarray:
        """Scores of judged pairs by rank, float64 [n]; equal for products that were not returned."""
        found = np.full(len(pairs), -np.inf)
        for rows, start, end in zip(self.ranked, pairs.offsets[:-1], pairs.offsets[1:], strict=True):
            place = {int(row): place for place, row in enumerate(rows)}
            found[start:end] = [-place.get(int(row), RETURNED) for row in pairs.product[start:end]]
        return found


def served_candidates(
    words: LexicalIndex, vectors: np.ndarray, query: str, encoded: np.ndarray, near: np.ndarray, depth: int
) -> np.ndarray:
    """The candidates that `search` passes to the cross-encoder, best first: int64 [at most depth].

    Args:
        words: the build's lexical index.
        vectors: of the products, float [n, D].
        query: the query.
        encoded: its vector, float32 [D].
        near: its nearest products, best first.
        depth: most candidates.
    """
    found = words.search(query, depth)
    matched = Words.of(found.rows, found.scores, found.exact)
    weight = RetrievalParameters.from_strings("retrieval", {}).search_words
    return fuse(vectors, encoded, near[:depth], matched, weight, depth).rows.astype(np.int64)


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
