"""Warm-up of the teacher: before it sees labels, it learns on mined pairs to judge as the bi-encoder does.

A cross-encoder that starts from a bi-encoder's weights does not have the bi-encoder's knowledge: reading two texts at
once and its head are new. Without a warm-up, it needs a few thousand labels to learn similarity. With a warm-up, the
bi-encoder teaches similarity, and the labels teach where that is wrong.
"""

from collections.abc import Collection

import numpy as np
from endcap_server.engines.bi_encoder import BiEncoder
from endcap_server.shop.store import ItemStore

from endcap_builders.relevance.augmentation import AugmentationSettings, draw_searches, mine_searches
from endcap_builders.relevance.data import Labelled
from endcap_builders.relevance.pairs import Pairs, no_pairs
from endcap_builders.step import BuildContext

_RANGE = (0.01, 0.99)
"""Quantiles of the similarity that become relevance 0 and 1."""


def warm_up_pairs(
    ctx: BuildContext,
    store: ItemStore,
    labelled: Labelled,
    count: int,
    rng: np.random.Generator,
    unseen: Collection[str] = (),
) -> Pairs:
    """Mined pairs with the bi-encoder's similarity as their relevance.

    Args:
        ctx: of the build.
        store: the products.
        labelled: labelled pairs, which determine the held-out queries.
        count: approximate number of pairs; 0: none.
        rng: draws.
        unseen: further queries that must not be drawn.
    """
    mining = AugmentationSettings.model_validate({})
    searches = draw_searches(store, labelled, round(count / mining.mined_group), rng, unseen)
    pairs = mine_searches(ctx, store, searches, mining, rng)
    if not len(pairs):
        return no_pairs()
    vectors = BiEncoder(ctx.input("bi_encoder")).encode(pairs.queries, "query")
    return pairs.with_target(similarity_as_relevance(vectors[pairs.query], store.vectors[pairs.product]))


def similarity_as_relevance(queries: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Cosine of unit vectors float [n, D], scaled from 0 (low quantile) to 1 (high quantile): float64 [n]."""
    similarity = (np.asarray(queries, np.float64) * np.asarray(products, np.float64)).sum(axis=1)
    low, high = np.quantile(similarity, _RANGE)
    return np.clip((similarity - low) / max(high - low, 1e-9), 0, 1)
