"""Augmentation: unlabelled pairs, mined around the searches of the log; held-out queries are never used."""

from collections.abc import Collection
from typing import Any

import numpy as np
from endcap_server.engines.bi_encoder import BiEncoder
from endcap_server.shop.store import ItemStore

from endcap_builders.relevance.data import DEPTH, Labelled, product_texts
from endcap_builders.relevance.mining import Lexical, Shares, dense_top, mine, neighbours_top
from endcap_builders.relevance.pairs import Pairs, held_out, no_pairs
from endcap_builders.relevance.settings import AugmentationSettings
from endcap_builders.step import BuildContext


def draw_searches(
    store: ItemStore, labelled: Labelled, count: int, rng: np.random.Generator, unseen: Collection[str] = ()
) -> list[str]:
    """Searches of the log, drawn by count, and judged queries, without held-out ones.

    Args:
        store: known keywords with their counts.
        labelled: judged queries.
        count: number to draw; fewer if there are fewer.
        rng: source of randomness; a smaller count gives a prefix of a larger one.
        unseen: further queries that must not be drawn, in any spelling of case and white space.
    """
    judged = labelled.part(training=True)[0].queries
    texts = [*store.keywords, *judged]
    counts = np.asarray(store.keyword_counts, dtype=np.float64)
    usual = np.sqrt(counts.mean() + 1) if len(counts) else 1.0
    weights = np.concatenate([np.sqrt(counts + 1), np.full(len(judged), usual)])
    weights[held_out(texts, labelled.held_out_share)] = 0
    kept = {plain(text) for text in unseen}
    weights[[plain(text) in kept for text in texts]] = 0
    # The smallest of exponential times with these rates are a weighted, nested draw without replacement.
    times = rng.exponential(size=len(texts)) / np.maximum(weights, 1e-300)
    order = [index for index in np.argsort(times, kind="stable").tolist() if weights[index] > 0]
    return list(dict.fromkeys(texts[index] for index in order))[:count]


def mine_searches(
    ctx: BuildContext, store: ItemStore, queries: list[str], settings: AugmentationSettings, rng: np.random.Generator
) -> Pairs:
    """Unlabelled candidates of each query."""
    if not queries:
        return no_pairs()
    shares = Shares(settings.dense_share, settings.lexical_share, settings.neighbour_share)
    dense_count, lexical_count, neighbour_count = shares.counts(settings.mined_group)
    vectors = BiEncoder(ctx.input("bi_encoder")).encode(queries, "query")
    dense = dense_top(vectors, store.vectors, DEPTH)
    sources: list[tuple[Any, int]] = [(dense, dense_count)]
    if lexical_count:
        sources.append((Lexical(product_texts(ctx, store)).top(queries, DEPTH), lexical_count))
    if neighbour_count:
        sources.append((neighbours_top(vectors, dense), neighbour_count))
    return mine(queries, sources, len(store), settings.mined_group, rng)


def plain(text: str) -> str:
    """A query in the form in which queries are compared: without case and white space."""
    return " ".join(text.casefold().split())
