"""Relevance of a page's pairs from postings: what is known, what to ask the cross-encoder, and estimates for the rest.

A product of a kind that its theme names is compared with the name of the kind, any other one, or one that has no such
posting, with the theme's keywords: its relevance is that of the best keyword. All shoppers share these pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from endcap_server.shop.kinds import Kinds
from endcap_server.shop.margins import pairwise_margins
from endcap_server.shop.postings import Postings, logits_of, relevance_of
from endcap_server.shop.store import ItemStore

_REST = -1
"""Group of the products that are of no kind that the theme names."""


@dataclass(frozen=True)
class Placement:
    """What the products of a placement are compared with.

    Attributes:
        text: The theme with its keywords, or the search of the session that it answers.
        keywords: int32 [k], positions of its keywords.
        kinds: The kinds that the theme names, position -> name.
    """

    text: str
    keywords: np.ndarray
    kinds: Mapping[int, str]


@dataclass(frozen=True)
class PostedPairs:
    """Pairs of T placements and at most M products each; -1 and NaN where padded.

    Attributes:
        postings: Of the build.
        rows: int32 [T, M], products.
        logits: float32 [T, M], calibrated; NaN: no posting.
        groups: int32 [T, M], the kind whose name a product is compared with, or -1.
        texts: [T][M], the text that a pair without a posting is scored by; "" for the others.
        cosine: float32 [T, M], of the product and the nearest keyword; NaN without keywords.
    """

    postings: Postings
    rows: np.ndarray
    logits: np.ndarray
    groups: np.ndarray
    texts: Sequence[Sequence[str]]
    cosine: np.ndarray

    @classmethod
    def of(
        cls, postings: Postings, store: ItemStore, kinds: Kinds, placements: Sequence[Placement], rows: np.ndarray
    ) -> "PostedPairs":
        """Look up the pairs of placements and their products, ``rows`` int32 [T, M]."""
        logits, cosine = np.full(rows.shape, np.nan, np.float32), np.full(rows.shape, np.nan, np.float32)
        groups = np.full(rows.shape, _REST, np.int32)
        texts: list[list[str]] = []
        for index, placement in enumerate(placements):
            given = rows[index] >= 0
            products = rows[index, given]
            kind = kinds.of_product[products]
            own = np.isin(kind, list(placement.kinds))
            groups[index, given] = np.where(own, kind, _REST)
            of_kind = np.where(own, postings.own_kind_logits(products), np.nan)
            found = np.where(np.isnan(of_kind), _best(postings, placement.keywords, products), of_kind)
            logits[index, given] = found
            names = np.full(len(products), placement.text, object)
            if len(placement.keywords) and len(products):
                near = store.keyword_vectors[placement.keywords].astype(np.float32)
                near = near @ store.vectors[products].astype(np.float32).T
                cosine[index, given] = near.max(axis=0)
                keywords = np.array(list(store.keywords.take(placement.keywords.tolist())), object)
                names = keywords[near.argmax(axis=0)]
            for position, name in placement.kinds.items():
                names[own & (kind == position)] = name
            line = np.full(rows.shape[1], "", object)
            line[given] = np.where(np.isnan(found), names, "")
            texts.append(line.tolist())
        return cls(postings, rows, logits, groups, texts, cosine)

    def asked(self, most: int) -> np.ndarray:
        """The pairs without a posting that are scored online: bool [T, M], at most ``most``.

        Those nearest to a keyword are chosen, because the others hardly ever fit; before them, those of placements that
        have no keyword, such as searches of the session.
        """
        chosen = np.zeros(self.rows.shape, np.bool_)
        lines, places = np.nonzero((self.rows >= 0) & np.isnan(self.logits))
        cosine = self.cosine[lines, places]
        first = np.argsort(np.where(np.isnan(cosine), -np.inf, -cosine), kind="stable")[:most]
        chosen[lines[first], places[first]] = True
        return chosen

    def measured(self, online: np.ndarray, similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        """Relevance and margin float32 [T, M], and how many pairs come from where.

        Args:
            online: float32 [T, M], relevance by the cross-encoder, NaN where it was not asked.
            similarity: float32 [T, M], cosine of the placement's text and the product; for pairs without keywords.
        """
        given, posted, scored = self.rows >= 0, ~np.isnan(self.logits), ~np.isnan(online)
        estimate = self.postings.estimated_logits(np.where(np.isnan(self.cosine), similarity, self.cosine))
        logits = np.where(posted, self.logits, np.where(scored, logits_of(online), estimate))
        logits[~given] = np.nan
        margin = np.full(self.rows.shape, np.nan, np.float32)
        for line in range(len(self.rows)):
            for group in np.unique(self.groups[line, given[line]]):
                own = given[line] & (self.groups[line] == group)
                margin[line, own] = pairwise_margins(logits[None, line, own], self.postings.meta.temperature)[0]
        counts = {"postings": int(posted.sum()), "online": int((scored & ~posted).sum())}
        counts["estimated"] = int((given & ~np.isnan(logits)).sum()) - sum(counts.values())
        return relevance_of(logits), margin, counts


def _best(postings: Postings, keywords: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Largest logit of the keywords with each product: float32 [m], NaN where none has a posting."""
    found = postings.keyword_logits(keywords, products)
    best = np.where(np.isnan(found), -np.inf, found).max(axis=0, initial=-np.inf)
    return np.where(np.isneginf(best), np.nan, best).astype(np.float32)
