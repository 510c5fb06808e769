"""Gates of the relevance models; the baselines are the bi-encoder's cosine and BM25."""

import numpy as np
from endcap_server.engines.bi_encoder import BiEncoder
from endcap_server.shop.store import ItemStore

from endcap_builders.gates import Gate
from endcap_builders.relevance.data import product_texts
from endcap_builders.relevance.measure import query_accuracy
from endcap_builders.relevance.mining import Lexical
from endcap_builders.relevance.pairs import Pairs
from endcap_builders.step import BuildContext

COSINE, BM25 = "cosine of the bi-encoder", "BM25"
_MEASURE = "order of held-out queries' products"


def relevance_gates(ctx: BuildContext, model: str, store: ItemStore, unseen: Pairs, scores: np.ndarray) -> list[Gate]:
    """Compare a model's order of each held-out query's products.

    Args:
        ctx: of the build.
        model: the build step.
        store: the products.
        unseen: labelled pairs of queries that training has not seen.
        scores: the model's, float [n].
    """
    if not len(unseen):
        return []
    vectors = BiEncoder(ctx.input("bi_encoder")).encode(unseen.queries, "query")
    cosine = np.einsum("nd,nd->n", vectors[unseen.query], np.asarray(store.vectors[unseen.product], np.float32))
    simple = {COSINE: cosine, BM25: Lexical(product_texts(ctx, store)).scores(unseen)}
    mine = query_accuracy(scores, unseen)
    return [Gate.of(model, _MEASURE, mine, name, query_accuracy(other, unseen)) for name, other in simple.items()]
