"""Step `index`: FAISS indexes of products and keywords, and the best products of every keyword."""

import json
import math
from typing import Any

import faiss
import numpy as np
from endcap_server.shop.columns import Array
from endcap_server.shop.store import KEYWORD_PRODUCTS, ItemStore, write_columns
from pydantic import Field

from endcap_builders.catalogue.groups import TEXTS
from endcap_builders.keywords import WordIndex
from endcap_builders.step import BuildContext, Settings, Step
from endcap_builders.steps.store import WITHOUT_FACTS

_BLOCK = 256
_RECALL_K = 100
_LISTS = 2.0
"""Lists per square root of the number of rows."""
_ROUNDS, _TRAINED_ROWS = 8, 64
"""Rounds of k-means, and rows for each list that take part in it."""


class IndexSettings(Settings):
    """Options of the step."""

    exact_up_to: int = Field(
        30_000, ge=0, description="rows up to which a search compares every vector; above, those of the nearest lists"
    )
    least_recall: float = Field(
        0.99, gt=0, le=1, description="recall@100 that the lists have to reach; as many are searched as that takes"
    )
    recall_sample: int = Field(500, ge=1, description="searches on which the recall of lists is measured")
    keyword_drop: float = Field(
        0.25,
        ge=0,
        le=2,
        description="products without all words of a keyword are kept down to this much below its best similarity",
    )
    keyword_popularity: float = Field(
        0.15, ge=0, le=2, description="similarity that the most popular product of a keyword gains over one nobody buys"
    )
    keyword_majority: float = Field(
        0.5, gt=0, le=1, description="share of a keyword's products that makes their category the keyword's"
    )


def run(ctx: BuildContext, settings: IndexSettings) -> dict[str, Any]:
    """Write products.faiss, keywords.faiss and the links from keywords to products."""
    store = ItemStore.open(ctx.build, linked=False)
    figures: dict[str, Any] = {}
    for name, vectors in (("products", store.vectors), ("keywords", store.keyword_vectors)):
        asked = _searched(store) if name == "products" else None
        index, kind, recall = build_index(ctx, vectors, settings, name, asked)
        faiss.write_index(index, str(ctx.output / f"{name}.faiss"))
        figures[name] = {"rows": len(vectors), "kind": kind, "recall_at_100": round(recall, 4)}
        if name == "products":
            rows = _keyword_products(ctx, store, index, settings)
    category = majority_category(store.category, rows, settings.keyword_majority)
    write_columns(ctx.output, keyword_products=rows, keyword_category=category)
    figures["products_of_a_keyword"] = round(float((rows >= 0).sum(axis=1).mean()), 1) if len(rows) else 0.0
    (ctx.output / "index.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for name in ("products", "keywords"):
        ctx.log("{}: {rows:,} rows, {kind}, recall@100 {recall_at_100}".format(name, **figures[name]))
    return figures


def _searched(store: ItemStore) -> Array:
    """Vectors of the known searches, float16 [m, D]; without a log, of all keywords.

    A keyword of the catalogue, such as a brand, may be near to products of all kinds. Its products are looked up when
    the index is built; searches for it count if they are in the log.
    """
    searched = np.flatnonzero(np.asarray(store.keyword_counts) > 0)
    vectors: Array = store.keyword_vectors[searched] if len(searched) else store.keyword_vectors
    return vectors


def build_index(
    ctx: BuildContext, vectors: Array, settings: IndexSettings, name: str, asked: Array | None = None
) -> tuple[Any, str, float]:
    """Index unit vectors float16 [n, D] for inner products: the index, its kind, and its recall@100.

    Recall is that of searches near rows, as those for shoppers' interests are; or that of ``asked``, vectors of
    searches float16 [m, D], if it is lower: texts lie farther from products than these from each other.
    """
    dimension = vectors.shape[1]
    exact = len(vectors) <= settings.exact_up_to
    lists = 0 if exact else max(round(_LISTS * len(vectors) ** 0.5), 1)
    index: Any = faiss.index_factory(dimension, "SQfp16" if exact else f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    rng = np.random.default_rng(ctx.seed)
    if exact:
        # fp16 quantisation needs no training, but FAISS requires the call.
        index.train(np.zeros((1, dimension), np.float32))
    else:
        index.by_residual = False  # a residual would have to be added up again in every search
        index.cp.niter, index.cp.seed = _ROUNDS, ctx.seed
        index.cp.max_points_per_centroid = _TRAINED_ROWS
        sample = np.sort(rng.choice(len(vectors), min(len(vectors), _TRAINED_ROWS * lists), replace=False))
        ctx.log(f"index of {name}: {lists:,} lists from {len(sample):,} vectors")
        index.train(np.ascontiguousarray(vectors[sample], np.float32))
    size = 16 * _BLOCK
    for start in ctx.track(range(0, len(vectors), size), f"index of {name} (x{size})"):
        index.add(np.ascontiguousarray(vectors[start : start + size], np.float32))
    if not len(vectors):
        return index, "exact", 1.0
    searches = [_near_rows(vectors, settings.recall_sample, rng)]
    if asked is not None and len(asked):
        searches.append(_sample(asked, settings.recall_sample, rng).astype(np.float32))
    wanted = [nearest_by_product(each, vectors, min(_RECALL_K, len(vectors))) for each in searches]
    if exact:
        return index, "exact", _recall(index, searches, wanted)
    found = _search_enough_lists(index, searches, wanted, settings.least_recall)
    return index, f"the nearest {index.nprobe} of {lists} lists", found


def _search_enough_lists(index: Any, searches: list[Array], wanted: list[Array], least: float) -> float:
    """Set the number of lists that a search compares so that it reaches a recall; the recall."""
    index.nprobe = 1
    while (found := _recall(index, searches, wanted)) < least and index.nprobe < index.nlist:
        index.nprobe = min(index.nlist, math.ceil(1.25 * index.nprobe))
    return found


def _near_rows(vectors: Array, sample: int, rng: np.random.Generator) -> Array:
    """Noisy copies of rows, of unit length: float32 [at most sample, D]."""
    rows = _sample(vectors, sample, rng)
    noise = rng.standard_normal(rows.shape) / np.sqrt(vectors.shape[1])
    searches = np.ascontiguousarray(rows + 0.5 * noise, np.float32)
    return searches / np.linalg.norm(searches, axis=1, keepdims=True)


def _sample(vectors: Array, count: int, rng: np.random.Generator) -> Array:
    return vectors[np.sort(rng.choice(len(vectors), min(count, len(vectors)), replace=False))]


def _recall(index: Any, searches: list[Array], wanted: list[Array]) -> float:
    """Share of the exact nearest rows (int64 [s, k] for each kind of searches) that the index finds; the lowest."""
    return min(
        float(np.mean([len(np.intersect1d(a, b)) / rows.shape[1] for a, b in zip(found, rows, strict=True)]))
        for vectors, rows in zip(searches, wanted, strict=True)
        for found in (index.search(vectors, rows.shape[1])[1],)
    )


def nearest_by_product(searches: Array, vectors: Array, k: int, block: int = 65_536) -> Array:
    """Rows of the ``k`` largest inner products of each search, int64 [s, k], largest first, by block-wise products."""
    best = np.full((len(searches), 0), 0, np.int64)
    scores = np.zeros((len(searches), 0), np.float32)
    for start in range(0, len(vectors), block):
        part = searches @ vectors[start : start + block].astype(np.float32).T
        rows = np.broadcast_to(np.arange(start, start + part.shape[1]), part.shape)
        scores, best = np.concatenate([scores, part], axis=1), np.concatenate([best, rows], axis=1)
        if scores.shape[1] > k:
            top = np.argpartition(scores, -k, axis=1)[:, -k:]
            scores, best = np.take_along_axis(scores, top, axis=1), np.take_along_axis(best, top, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


def _keyword_products(ctx: BuildContext, store: ItemStore, index: faiss.Index, settings: IndexSettings) -> Array:
    """Best products of each keyword, int32 [m, 64]: those with all its words first, each part by similarity."""
    word_index = WordIndex(ctx.catalogue.products)
    rows = np.full((len(store.keywords), KEYWORD_PRODUCTS), -1, np.int32)
    exact = len(store) <= settings.exact_up_to
    k = min(KEYWORD_PRODUCTS, len(store))
    bonus = settings.keyword_popularity * store.popularity
    for start in ctx.track(range(0, len(rows), _BLOCK), f"products of keywords (x{_BLOCK})"):
        searches = np.ascontiguousarray(store.keyword_vectors[start : start + _BLOCK], np.float32)
        near = nearest_by_product(searches, store.vectors, k) if exact else index.search(searches, k)[1]
        for line, own in enumerate(near):
            best = best_products(
                searches[line],
                own[own >= 0],
                word_index.find(store.keywords[start + line]),
                store.vectors,
                settings.keyword_drop,
                bonus,
            )
            rows[start + line, : len(best)] = best
    return rows


def best_products(
    search: Array, near: Array, agreeing: Array, vectors: Array, drop: float, bonus: Array | None = None
) -> Array:
    """Merge the nearest products of a keyword with those that contain all its words; the latter come first.

    Args:
        search: the keyword's vector, float32 [D].
        near: its nearest product rows.
        agreeing: rows of the products that contain all its words.
        vectors: all product vectors, [n, D].
        drop: largest difference to the best similarity for a product that does not contain all words.
        bonus: added to each product's similarity for the order, float [n].
    """
    candidates = np.union1d(near, agreeing)
    similarity = vectors[candidates].astype(np.float32) @ search
    agrees = np.zeros(len(candidates), np.bool_)
    agrees[np.searchsorted(candidates, agreeing)] = True
    kept = agrees | (similarity >= similarity.max(initial=-1.0) - drop)
    if bonus is not None:
        similarity = similarity + bonus[candidates]
    # Cosines and bonuses differ by at most 4.
    order = np.argsort(-(similarity + 4.0 * agrees)[kept], kind="stable")
    return candidates[kept][order][:KEYWORD_PRODUCTS]


def majority_category(category: Array, rows: Array, majority: float) -> Array:
    """Category with more than a given share of each keyword's products (int [m, 64], -1 padded): int32 [m], else -1."""
    of_keywords = np.where(rows >= 0, category[rows], -1) if len(category) else np.full(rows.shape, -1)
    found = np.full(len(rows), -1, np.int32)
    for line, values in enumerate(of_keywords):
        known = values[values >= 0]
        if len(known):
            names, counts = np.unique(known, return_counts=True)
            if counts.max() > majority * int((rows[line] >= 0).sum()):
                found[line] = names[counts.argmax()]
    return found


STEP = Step(
    name="index",
    needs=("catalogue", "bi_encoder", "store"),
    settings=IndexSettings,
    run=run,
    help="indexing products and keywords",
    reads={"catalogue": (TEXTS,), "bi_encoder": (), "store": WITHOUT_FACTS},
)
