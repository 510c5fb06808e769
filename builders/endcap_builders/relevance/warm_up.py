"""A start for the teacher: before it sees labels it learns, on mined pairs, to judge as the bi-encoder does.

A cross-encoder that starts from a bi-encoder's weights does not know what that bi-encoder knows: its way of reading two
texts at once, and its head, are new. A few thousand labels are spent on learning again what similarity is. The
bi-encoder's similarity is free, and labels then teach where it is wrong.
"""

from collections.abc import Collection

import numpy as np
from endcap_server.engines.bi_encoder import BiEncoder
from endcap_server.shop.store import ItemStore

from endcap_builders.pipeline import BuildContext
from endcap_builders.relevance.augmentation import AugmentationSettings, draw_searches, mine_searches
from endcap_builders.relevance.data import Labelled
from endcap_builders.relevance.pairs import Pairs, no_pairs

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
        labelled: what says which queries are held out.
        count: about how many pairs; 0 for none.
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
    """Cosine of unit vectors float [n, D], linear from 0 (as good as the worst pairs) to 1 (the best): float64 [n]."""
    similarity = (np.asarray(queries, np.float64) * np.asarray(products, np.float64)).sum(axis=1)
    low, high = np.quantile(similarity, _RANGE)
    return np.clip((similarity - low) / max(high - low, 1e-9), 0, 1)
