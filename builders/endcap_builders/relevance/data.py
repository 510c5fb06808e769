"""Labelled data of a build: human or weak judgements, and the theme products of the step merchandising."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from endcap_server.engines.bi_encoder import BiEncoder
from endcap_server.engines.cross_encoder import MAX_TEXT_TOKENS
from endcap_server.shop.store import ItemStore, tokenizer_digest

from endcap_builders.catalogue import Catalogue
from endcap_builders.relevance.encode import PairEncoder
from endcap_builders.relevance.labels import UNIT, LabelScale
from endcap_builders.relevance.mining import add_passed_over, dense_top
from endcap_builders.relevance.pairs import (
    Pairs,
    RelevanceError,
    add_random_negatives,
    held_out,
    merge_pairs,
    no_pairs,
    pairs_from_frame,
)
from endcap_builders.relevance.settings import THEME_PRODUCTS, SampleSettings
from endcap_builders.relevance.weak import weak_pairs
from endcap_builders.step import BuildContext
from endcap_builders.steps.store import product_text

DEPTH = 150
"""Candidates of a query for mining; about as many as serving reranks."""

_WEAK_GROUP = 16


@dataclass(frozen=True)
class Labelled:
    """Labelled pairs by source.

    Attributes:
        judged: human judgements, or weak ones.
        themes: texts of themes with products that do and do not fit; can be empty.
        human: whether `judged` are human; otherwise they are derived from the catalogue.
        held_out_share: share of the queries that training must not see.
    """

    judged: Pairs
    themes: Pairs
    human: bool
    held_out_share: float

    @property
    def source(self) -> str:
        """Description of the source of the labels."""
        return "judgements" if self.human else "weak labels from the catalogue's structure"

    def part(self, *, training: bool) -> tuple[Pairs, Pairs]:
        """Judged and theme pairs of the training queries, or of the held-out ones."""
        judged, themes = (
            pairs.select_queries(held_out(pairs.queries, self.held_out_share) != training)
            for pairs in (self.judged, self.themes)
        )
        return judged, themes


def read_labelled(
    ctx: BuildContext, store: ItemStore, weak_queries: int, held_out_share: float, scale: LabelScale
) -> Labelled:
    """All labelled pairs of the build.

    Raises:
        RelevanceError: judgements all of the same grade or outside the scale, or none that name a product of the
            catalogue.
    """
    ids = pl.Series("product_id", list(store.product_ids), dtype=pl.String)
    judgements = ctx.catalogue.judgements
    human = False
    if judgements is not None and judgements.height:
        human = True
        judged = pairs_from_frame(judgements, ids, source="judgements.parquet", to_relevance=scale.apply)
        if not len(judged):
            raise RelevanceError(
                "judgements.parquet: expected products of the catalogue, got none; check its column product_id"
            )
    else:
        rng = np.random.default_rng(ctx.seed)
        judged = weak_pairs(_catalogue_rows(ctx.catalogue, store), weak_queries, _WEAK_GROUP, rng)
    path = ctx.input("merchandising") / THEME_PRODUCTS
    themes = (
        pairs_from_frame(pl.read_parquet(path), ids, source=str(path), to_relevance=UNIT.apply)
        if path.exists()
        else no_pairs()
    )
    return Labelled(judged, themes, human, held_out_share)


def draw_labelled(
    ctx: BuildContext, store: ItemStore, labelled: Labelled, settings: SampleSettings, rng: np.random.Generator
) -> Pairs:
    """Labelled pairs of random training queries, with added negatives."""
    judged, themes = labelled.part(training=True)
    from_themes = min(len(themes), round(settings.max_pairs * settings.theme_share))
    judged = sample_queries(judged, settings.max_pairs - from_themes, rng)
    if labelled.human and settings.passed_over:
        near = nearest(ctx, store, judged.queries)
        judged = add_passed_over(judged, near, settings.passed_over, settings.passed_over_coverage, rng)
    both = merge_pairs([judged, sample_queries(themes, from_themes, rng)])
    return add_random_negatives(both, len(store), settings.random_negatives, rng)


def draw_held_out(labelled: Labelled, most: int, rng: np.random.Generator) -> Pairs:
    """Pairs of held-out queries, at most `most`: judged ones first, then those of themes."""
    judged, themes = labelled.part(training=False)
    judged = sample_queries(judged, most, rng)
    return merge_pairs([judged, sample_queries(themes, most - len(judged), rng)])


def nearest(ctx: BuildContext, store: ItemStore, queries: list[str]) -> list[np.ndarray]:
    """Products that the bi-encoder finds for each query, best first: int64 [at most DEPTH] each."""
    if not queries:
        return []
    return dense_top(BiEncoder(ctx.input("bi_encoder")).encode(queries, "query"), store.vectors, DEPTH)


def sample_queries(pairs: Pairs, max_pairs: int, rng: np.random.Generator) -> Pairs:
    """All pairs of random queries, as many queries as fit into `max_pairs`."""
    if len(pairs) <= max_pairs:
        return pairs
    sizes = np.diff(pairs.offsets)
    order = rng.permutation(len(sizes))
    keep = np.zeros(len(sizes), dtype=bool)
    keep[order[np.cumsum(sizes[order]) <= max_pairs]] = True
    return pairs.select_queries(keep)


def pair_encoder(ctx: BuildContext, store: ItemStore, tokenizer: Any) -> PairEncoder:
    """The item store's product tokens for a model of this tokenizer; tokenised again for another vocabulary."""
    return pair_encoder_of(store, tokenizer, lambda: product_texts(ctx, store))


def pair_encoder_of(store: ItemStore, tokenizer: Any, texts: Callable[[], list[str]]) -> PairEncoder:
    """The same, with given texts of the products for another vocabulary."""
    if same_vocabulary(store, tokenizer):
        return PairEncoder(tokenizer, store.tokens.values, store.tokens.offsets, MAX_TEXT_TOKENS)
    return PairEncoder.from_texts(
        tokenizer, texts(), max_query_tokens=MAX_TEXT_TOKENS, max_product_tokens=store.max_product_tokens
    )


def product_texts(ctx: BuildContext, store: ItemStore) -> list[str]:
    """The text that the step `store` tokenised of each product, in the store's order."""
    return store_texts(ctx.catalogue, store)


def store_texts(catalogue: Catalogue, store: ItemStore) -> list[str]:
    """The same, with a given catalogue."""
    columns = _catalogue_rows(catalogue, store).select("title", "brand", "category", "description")
    return [product_text(*row, description_words=store.max_product_tokens) for row in columns.iter_rows()]


def same_vocabulary(store: ItemStore, tokenizer: Any) -> bool:
    """Whether the store's token ids mean the same to this tokenizer."""
    return tokenizer_digest(tokenizer.backend_tokenizer) == store.tokenizer


def _catalogue_rows(catalogue: Catalogue, store: ItemStore) -> pl.DataFrame:
    """The catalogue's products in the order of the store's rows."""
    ids = pl.Series("product_id", list(store.product_ids), dtype=pl.String)
    return ids.to_frame().join(catalogue.products, on="product_id", how="left", maintain_order="left")
