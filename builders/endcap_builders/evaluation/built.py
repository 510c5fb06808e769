"""Quality of the models of one build. Nothing is trained; the serving engine computes the student's scores."""

from collections.abc import Callable
from typing import Any

import numpy as np
from endcap_client import Client, EndcapError
from endcap_server.engines.bi_encoder import BiEncoder
from endcap_server.engines.cross_encoder import CrossEncoder, CrossEncoderRequest
from endcap_server.engines.encoder_runtime import RuntimeOptions
from endcap_server.engines.lexical import Boosts, LexicalIndex
from endcap_server.shop.store import ItemStore

from endcap_builders.evaluation.queries import EvaluationError, Judged
from endcap_builders.evaluation.summary import Runs, summarise
from endcap_builders.evaluation.systems import RETURNED, Protocol, Searched, baselines
from endcap_builders.relevance.data import product_texts
from endcap_builders.relevance.judge import Judge
from endcap_builders.relevance.mining import Lexical
from endcap_builders.relevance.pairs import Pairs
from endcap_builders.step import BuildContext

SERVED = "served search"
Search = Callable[[list[str]], Searched]
"""Sends searches to a server."""


def evaluate_built(
    ctx: BuildContext,
    store: ItemStore,
    judged: Judged,
    corpus: Judged,
    depth: int,
    relevant: float,
    search: Search | None = None,
) -> tuple[dict[str, Any], Searched | None]:
    """Figures of the build's retrievers, teacher, student and, with a server, `search`; see `summarise`.

    Args:
        ctx: of the build.
        store: its products.
        judged: queries that none of its models has seen.
        corpus: those for which the whole corpus is ranked.
        depth: candidates that the rerankers order.
        relevant: relevance from which a product counts for recall.
        search: client of a running server; None: no server.

    Returns:
        The figures, and the server's answers.

    Raises:
        EvaluationError: the build lacks its cross-encoder.
    """
    if not ctx.input("cross_encoder").is_dir():
        raise EvaluationError(f"{ctx.build}: expected a build with the step cross_encoder, got none; run endcap build")
    lexical, encoder = Lexical(product_texts(ctx, store)), BiEncoder(ctx.input("bi_encoder"))
    words = LexicalIndex(ctx.input("lexical"), Boosts())

    def encode(texts: list[str]) -> np.ndarray:
        return encoder.encode(texts, "query")

    protocol = Protocol.of(judged, corpus, lexical, words, encode, store.vectors, depth, relevant)
    systems: dict[str, Runs] = {
        name: {None: figures} for name, figures in baselines(protocol, lexical, encode, store.vectors, seed=0).items()
    }
    judge = Judge(ctx.input("teacher"), ctx.build, ctx.catalogue_folder)
    engine = CrossEncoder(ctx.input("cross_encoder"), store, RuntimeOptions())
    scorers = {"teacher": judge.judge, "student": lambda pairs: served_scores(engine, pairs)}
    for name, score in scorers.items():
        systems[name] = {None: protocol.of_scores(score(judged.pairs), score(protocol.candidates))}
    if search is None:
        return summarise(systems, ("teacher",)), None
    answered = search(judged.pairs.queries)
    place = {query: number for number, query in enumerate(judged.pairs.queries)}
    ranked = [answered.ranked[place[query]] for query in corpus.pairs.queries]
    systems[SERVED] = {None: protocol.of_ranking(answered.scores(judged.pairs), ranked)}
    return summarise(systems, ("BM25", "bi-encoder", "teacher")), answered


def searched(client: Client, store: ItemStore, ctx: BuildContext, queries: list[str]) -> Searched:
    """Ask a running server.

    Raises:
        EvaluationError: it does not answer.
    """
    ranked, ms, pairs, degraded = [], [], [], 0
    for query in ctx.track(queries, "searches", len(queries)):
        try:
            result = client.search(query, products=RETURNED)
        except EndcapError as error:
            raise EvaluationError(f"search {query!r}: {error}") from error
        rows = store.product_ids.find([product.product_id for product in result.products])
        ranked.append(rows[rows >= 0].astype(np.int64))
        ms.append(1e3 * result.seconds)
        pairs.append(result.status.document["stages"].get("rerank", {}).get("pairs", 0))
        degraded += bool(result.status.degraded)
    return Searched(ranked, np.array(ms), degraded, np.array(pairs, np.int64))


def served_scores(engine: CrossEncoder, pairs: Pairs) -> np.ndarray:
    """Logits of pairs by the serving engine, float32 [n]."""
    scores = np.empty(len(pairs), dtype=np.float32)
    offsets = pairs.offsets
    for query, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):  # noqa: RUF007 - start and end
        request = CrossEncoderRequest([pairs.queries[query]], pairs.product[None, start:end].astype(np.int32))
        (answer,) = engine.run([request])
        if isinstance(answer, Exception):
            raise answer
        scores[start:end] = answer.logits[0]
    return scores
