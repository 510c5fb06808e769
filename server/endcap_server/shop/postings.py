"""Postings: scores of known texts and their products that the cross-encoder computed when the build was made.

The known texts are the keywords and the names of kinds. The build step `postings` writes, for each keyword, its
products with their scores, and for each product its score with the name of its own kind. A score is a calibrated
logit: relevance = 1 / (1 + exp(-logit)). Builds whose cross-encoder is not installed have none.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from endcap_server.shop.array_files import Array, StoreError, load_array, save_array
from endcap_server.shop.store import ItemStore

FOLDER = "postings"
_META = "postings.json"
COLUMNS = {"rows": (np.int32, 2), "logits": (np.float16, 2), "kind_logits": (np.float16, 1)}
"""Arrays of :class:`Postings`: dtype and dimensions."""
FILES = (*(f"{FOLDER}/{name}.npy" for name in COLUMNS), f"{FOLDER}/{_META}")
"""What the build step `postings` writes for :class:`Postings`."""


class PostingsMeta(BaseModel):
    """`postings.json`: what holds for all postings."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    temperature: float = Field(gt=0, description="difference of calibrated logits that wins 73 % of comparisons")
    slope: float = Field(description="calibrated logit of a pair without a posting = slope * cosine + offset")
    offset: float


@dataclass(frozen=True)
class Postings:
    """Postings of m keywords, the first ones of the store, and n products.

    Attributes:
        rows: int32 [m, K], products of each keyword, best first, -1 padded.
        logits: float16 [m, K], their calibrated logits; NaN padded.
        kind_logits: float16 [n], calibrated logit of each product with the name of its kind; NaN: not scored.
        meta: see :class:`PostingsMeta`.
        known: whether the build has postings.
    """

    rows: Array
    logits: Array
    kind_logits: Array
    meta: PostingsMeta
    known: bool = True

    @classmethod
    def empty(cls, products: int) -> "Postings":
        """Postings of a build that has none: every pair is unknown."""
        rows, logits = np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float16)
        meta = PostingsMeta(temperature=1.0, slope=0.0, offset=0.0)
        return cls(rows, logits, np.full(products, np.nan, np.float16), meta, known=False)

    @classmethod
    def open(cls, build: Path, store: ItemStore) -> "Postings":
        """Map the postings of a build; empty ones if it has none.

        Raises:
            StoreError: a file is missing, damaged, or of another store.
        """
        folder = build / FOLDER
        if not (folder / _META).exists():
            return cls.empty(len(store))
        columns = {name: load_array(folder, name, dtype, ndim) for name, (dtype, ndim) in COLUMNS.items()}
        try:
            meta = PostingsMeta.model_validate_json((folder / _META).read_text(encoding="utf-8"))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise StoreError(
                f"{folder / _META}, {name}: {first['msg']}, got {first['input']!r}; run endcap build postings"
            ) from None
        found = cls(columns["rows"], columns["logits"], columns["kind_logits"], meta)
        fits = found.rows.shape == found.logits.shape and len(found.rows) <= len(store.keywords)
        if not fits or len(found.kind_logits) != len(store):
            raise StoreError(
                f"{folder}: expected postings of {len(store)} products and at most {len(store.keywords)} keywords as "
                f"in store/, got {len(found.kind_logits)} and {len(found.rows)}; run endcap build postings"
            )
        return found

    def write(self, folder: Path) -> None:
        """Write the files into ``folder``."""
        for name, (dtype, _) in COLUMNS.items():
            save_array(folder, name, getattr(self, name), dtype)
        (folder / _META).write_text(self.meta.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def score(self, keyword_rows: Array, product_rows: Array) -> Array:
        """Relevance of keywords (int [k], -1 none) and products (int [m], -1 none): float32 [k, m], NaN unknown."""
        return relevance_of(self.keyword_logits(keyword_rows, product_rows))

    def keyword_logits(self, keyword_rows: Array, product_rows: Array) -> Array:
        """As :meth:`score`, the calibrated logits."""
        found = np.full((len(keyword_rows), len(product_rows)), np.nan, np.float32)
        given = (keyword_rows >= 0) & (keyword_rows < len(self.rows))
        if given.any() and self.rows.shape[1] and len(product_rows):
            own = keyword_rows[given]
            # Padding has no logit, so that a row of -1 is unknown too.
            same = self.rows[own][:, :, None] == product_rows[None, None, :]
            logits = np.take_along_axis(self.logits[own].astype(np.float32), same.argmax(axis=1), axis=1)
            found[given] = np.where(same.any(axis=1), logits, np.nan)
        return found

    def own_kind_logits(self, product_rows: Array) -> Array:
        """Calibrated logits of products (int [m], >= 0) and the names of their kinds: float32 [m], NaN unknown."""
        return self.kind_logits[product_rows].astype(np.float32)

    def estimated_logits(self, cosine: Array) -> Array:
        """Calibrated logits of pairs that have no posting, from the cosine of keyword and product: float32, any shape.

        The line was fitted to such pairs of the build.
        """
        return (self.meta.slope * cosine + self.meta.offset).astype(np.float32)


def relevance_of(logits: Array) -> Array:
    """Relevance 0..1 of calibrated logits: float32 of the same shape; NaN stays."""
    # tanh does not overflow where 1 / (1 + exp(-x)) does.
    return (0.5 + 0.5 * np.tanh(0.5 * logits.astype(np.float32))).astype(np.float32)


def logits_of(relevance: Array) -> Array:
    """Calibrated logits of relevance 0..1: float32 of the same shape; NaN stays. 0 and 1 have the largest float's."""
    edge = np.float32(1e-7)
    inside = np.clip(relevance.astype(np.float32), edge, 1 - edge)
    return np.log(inside / (1 - inside)).astype(np.float32)
