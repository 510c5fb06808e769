"""Caption tokens of products: normalised words and phrases as ids, or prefixes of semantic ids.

Words are lower case (NFKC, case-folded), stemmed, without stop words and numbers. Two words are a phrase if they stand
together more often than by chance (pointwise mutual information).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from endcap_server.shop.columns import Array, Ragged
from pydantic import Field

from endcap_builders.step import Settings
from endcap_builders.words import caption_candidates

_ROUNDS = 8
"""Rounds of k-means; the prefixes hardly change after them."""


class TokenSettings(Settings):
    """Options of the tokens."""

    least: int = Field(4, ge=1, description="products in which a token has to occur")
    most_share: float = Field(0.2, gt=0, le=1, description="share of products in which it may occur")
    vocabulary: int = Field(20_000, ge=1, description="most distinct tokens, the most frequent")
    per_product: int = Field(32, ge=1, le=256, description="most tokens of a product")
    phrase_pmi: float = Field(2.0, description="least pointwise mutual information of a phrase's words, in nats")
    buckets: int = Field(0, ge=0, description="hash tokens into so many ids instead of a vocabulary; 0: vocabulary")


def caption_ids(texts: Sequence[str], settings: TokenSettings) -> tuple[Ragged, int]:
    """Ids of each text's tokens, ascending, and the number of ids (ids are 0..number - 1)."""
    found = [caption_candidates(text) for text in texts]
    count = Counter(token for tokens in found for token in tokens)
    most = max(settings.most_share * len(texts), settings.least)
    usable = {token for token, times in count.items() if settings.least <= times <= most}
    usable -= {token for token in usable if _pmi(token, count, len(texts)) < settings.phrase_pmi}
    if settings.buckets:
        number = {token: _bucket(token, settings.buckets) for token in usable}
        size = settings.buckets
    else:
        kept = sorted(usable, key=lambda token: (-count[token], token))[: settings.vocabulary]
        number = {token: place for place, token in enumerate(kept)}
        size = len(kept)
    lists = [
        sorted({number[token] for token in sorted(tokens & usable, key=lambda each: (count[each], each))
                if token in number})[: settings.per_product]
        for tokens in found
    ]  # fmt: skip
    return Ragged.of(lists), size


def _pmi(token: str, count: Counter[str], texts: int) -> float:
    """Pointwise mutual information of the words of a phrase; infinite for one word."""
    first, _, second = token.partition(" ")
    if not second:
        return float("inf")
    return float(np.log(count[token] * texts / max(count[first] * count[second], 1)))


def _bucket(token: str, buckets: int) -> int:
    return int.from_bytes(hashlib.blake2b(token.encode(), digest_size=8).digest(), "little") % buckets


def semantic_ids(vectors: Array, levels: Sequence[int], seed: int) -> tuple[Ragged, int]:
    """Prefixes of semantic ids as tokens (arXiv 2504.02137): residual k-means over the products' vectors.

    Args:
        vectors: float [n, D].
        levels: clusters of each level.
        seed: of the first centres.

    Returns:
        For each product one id for each prefix of its codes, and the number of ids.
    """
    rest = np.asarray(vectors, np.float32)
    prefix, start, columns = np.zeros(len(rest), np.int64), 0, []
    for clusters in levels:
        code, centres = _k_means(rest, min(clusters, len(rest)), seed)
        rest = rest - centres[code]
        # Numbered anew at each level, so that only prefixes that occur take an id.
        _, prefix = np.unique(prefix * clusters + code, return_inverse=True)
        columns.append(start + prefix)
        start += int(prefix.max()) + 1
    flat = np.stack(columns, axis=1).astype(np.int32)
    return Ragged(flat.ravel(), np.arange(len(flat) + 1, dtype=np.int64) * len(levels)), start


def _k_means(values: Array, clusters: int, seed: int) -> tuple[Array, Array]:
    """Cluster of each row, int64 [n], and the centres, float32 [clusters, D]."""
    import faiss

    means = faiss.Kmeans(
        values.shape[1], clusters, niter=_ROUNDS, seed=seed, min_points_per_centroid=1, max_points_per_centroid=128
    )
    means.train(values)
    _, code = means.index.search(values, 1)
    return code[:, 0].astype(np.int64), np.asarray(means.centroids)
