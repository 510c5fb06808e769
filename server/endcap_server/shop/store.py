"""The item store: everything about products and search keywords that the stages and engines need, memory-mapped.

Stages exchange row numbers, and look up texts, prices and vectors here. The build step ``store`` writes the columns of
products and keywords (folder ``store/``), and the step ``index`` the links between them (``index/``).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from endcap_server.shop.columns import Array, Ragged, StoreError, StringColumn, load_array, save_array

__all__ = ["ItemStore", "KeywordColumns", "ProductColumns", "Ragged", "StoreError", "StringColumn", "tokenizer_digest"]

STORE_FORMAT = 1
"""Increased with each change of the files. A store of another format is refused."""

KEYWORD_PRODUCTS = 64
"""Best products kept for each keyword."""

_TEXT_COLUMN = ("bytes", "offsets", "hashes", "order")
STORE_FILES = (
    "store/store.json",
    *(
        f"store/{column}.{part}.npy"
        for column in ("product_ids", "titles", "brands", "categories", "category_labels", "caption_tokens", "keywords")
        for part in _TEXT_COLUMN
    ),
    *(f"store/{column}.{part}.npy" for column in ("tokens", "captions") for part in ("values", "offsets")),
    *(
        f"store/{column}.npy"
        for column in (
            *("vectors", "brand", "category", "price", "in_stock", "popularity"),
            *("keyword_vectors", "keyword_counts"),
        )
    ),
    "index/keyword_products.npy",
    "index/keyword_category.npy",
)
"""Files of a build that :meth:`ItemStore.open` maps."""


@dataclass(frozen=True)
class ProductColumns:
    """The product columns of the store, in a builder's memory; n products, all columns in the same order.

    ``vectors`` float [n, D] of unit length, ``brand`` and ``category`` int [n] are positions in ``brands`` and
    ``categories`` (-1 none), ``category_labels`` are the shoppers' names of ``categories``, ``price`` float [n] (NaN
    unknown), ``popularity`` float [n] 0..1.
    """

    product_ids: Sequence[str]
    titles: Sequence[str]
    vectors: Array
    brand: Array
    brands: Sequence[str]
    category: Array
    categories: Sequence[str]
    category_labels: Sequence[str]
    price: Array
    in_stock: Array
    popularity: Array
    tokens: Ragged
    captions: Ragged
    caption_tokens: Sequence[str]
    tokenizer: str
    max_product_tokens: int

    def write(self, folder: Path) -> None:
        """Write the columns into ``folder`` (``store/`` of a build)."""
        StringColumn.write(folder, "product_ids", self.product_ids)
        StringColumn.write(folder, "titles", self.titles)
        StringColumn.write(folder, "brands", self.brands)
        StringColumn.write(folder, "categories", self.categories)
        StringColumn.write(folder, "category_labels", self.category_labels)
        StringColumn.write(folder, "caption_tokens", self.caption_tokens)
        save_array(folder, "vectors", self.vectors, np.float16)
        save_array(folder, "brand", self.brand, np.int32)
        save_array(folder, "category", self.category, np.int32)
        save_array(folder, "price", self.price, np.float32)
        save_array(folder, "in_stock", self.in_stock, np.bool_)
        save_array(folder, "popularity", self.popularity, np.float32)
        self.tokens.write(folder, "tokens")
        self.captions.write(folder, "captions")
        meta = {
            "format": STORE_FORMAT,
            "products": len(self.product_ids),
            "dimension": int(self.vectors.shape[1]),
            "tokenizer": self.tokenizer,
            "max_product_tokens": self.max_product_tokens,
        }
        (folder / "store.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class KeywordColumns:
    """The known search keywords, in a builder's memory; m keywords, most searched first.

    ``vectors`` float [m, D] of unit length, ``counts`` int [m] searches in the log (0: derived from the catalogue).
    """

    keywords: Sequence[str]
    vectors: Array
    counts: Array

    def write(self, folder: Path) -> None:
        """Write the columns into ``folder`` (``store/`` of a build)."""
        StringColumn.write(folder, "keywords", self.keywords)
        save_array(folder, "keyword_vectors", self.vectors, np.float16)
        save_array(folder, "keyword_counts", self.counts, np.int64)


@dataclass(frozen=True)
class ItemStore:
    """All columns of a build, mapped read-only; n products, m keywords, D dimensions."""

    product_ids: StringColumn
    titles: StringColumn
    vectors: Array  # float16 [n, D], unit length
    brand: Array  # int32 [n], position in brands, -1 none
    category: Array  # int32 [n], position in categories, -1 none
    brands: list[str]
    categories: list[str]  # full paths "a > b > c"
    category_labels: list[str]  # the shoppers' name of each category, distinct
    price: Array  # float32 [n], NaN unknown
    in_stock: Array  # bool [n]
    popularity: Array  # float32 [n], 0..1
    tokens: Ragged  # cross-encoder token ids of each product's text, without special tokens
    captions: Ragged  # positions in caption_tokens, ascending
    caption_tokens: StringColumn
    keywords: StringColumn
    keyword_vectors: Array  # float16 [m, D], unit length
    keyword_counts: Array  # int64 [m], searches in the log
    keyword_products: Array  # int32 [m, 64], best product rows first, -1 padded
    keyword_category: Array  # int32 [m], position in categories, -1 if the keyword's products are mixed
    tokenizer: str  # tokenizer_digest of the tokenizer that made tokens
    max_product_tokens: int

    @classmethod
    def open(cls, build: Path, *, linked: bool = True) -> "ItemStore":
        """Open the store of the build folder ``build`` (which holds ``store/`` and ``index/``).

        With ``linked`` False, ``index/`` is not read: while a build runs, it belongs to an older store.
        ``keyword_products`` and ``keyword_category`` are then all -1.
        """
        store, index = build / "store", build / "index"
        meta = _read_meta(store / "store.json")
        keywords = StringColumn.open(store, "keywords")
        if linked and (index / "keyword_products.npy").exists():
            keyword_products = load_array(index, "keyword_products", np.int32, ndim=2)
            keyword_category = load_array(index, "keyword_category", np.int32)
        else:
            keyword_products = np.full((len(keywords), KEYWORD_PRODUCTS), -1, np.int32)
            keyword_category = np.full(len(keywords), -1, np.int32)
        opened = cls(
            product_ids=StringColumn.open(store, "product_ids"),
            titles=StringColumn.open(store, "titles"),
            vectors=load_array(store, "vectors", np.float16, ndim=2),
            brand=load_array(store, "brand", np.int32),
            category=load_array(store, "category", np.int32),
            brands=list(StringColumn.open(store, "brands")),
            categories=list(StringColumn.open(store, "categories")),
            category_labels=list(StringColumn.open(store, "category_labels")),
            price=load_array(store, "price", np.float32),
            in_stock=load_array(store, "in_stock", np.bool_),
            popularity=load_array(store, "popularity", np.float32),
            tokens=Ragged.open(store, "tokens"),
            captions=Ragged.open(store, "captions"),
            caption_tokens=StringColumn.open(store, "caption_tokens"),
            keywords=keywords,
            keyword_vectors=load_array(store, "keyword_vectors", np.float16, ndim=2),
            keyword_counts=load_array(store, "keyword_counts", np.int64),
            keyword_products=keyword_products,
            keyword_category=keyword_category,
            tokenizer=str(meta["tokenizer"]),
            max_product_tokens=int(meta["max_product_tokens"]),
        )
        opened._check_lengths(store, int(meta["products"]))
        return opened

    def __len__(self) -> int:
        """Return the number of products."""
        return len(self.product_ids)

    @property
    def dimension(self) -> int:
        """Return D, the dimensions of product and keyword vectors."""
        return int(self.vectors.shape[1])

    def _check_lengths(self, folder: Path, products: int) -> None:
        of_products = ("product_ids", "titles", "vectors", "brand", "category", "price", "in_stock", "popularity")
        expected = dict.fromkeys((*of_products, "tokens", "captions"), products)
        of_keywords = ("keyword_vectors", "keyword_counts", "keyword_products", "keyword_category")
        expected |= dict.fromkeys(of_keywords, len(self.keywords))
        for name, rows in expected.items():
            if len(getattr(self, name)) != rows:
                raise StoreError(
                    f"{folder}, column {name}: expected {rows} rows, got {len(getattr(self, name))}; "
                    "store/ and index/ are not of the same build: run endcap build store, then endcap build index"
                )


def write_keyword_links(folder: Path, keyword_products: Array, keyword_category: Array) -> None:
    """Write products int [m, 64] and category int [m] of each keyword into ``folder``, ``index/`` of a build."""
    save_array(folder, "keyword_products", keyword_products, np.int32)
    save_array(folder, "keyword_category", keyword_category, np.int32)


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Return a digest of a tokenizer's vocabulary, to tell whether token ids in the store fit a model."""
    vocabulary = sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    return hashlib.sha256(json.dumps(vocabulary, ensure_ascii=False).encode()).hexdigest()[:16]


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path}: expected the item store of a build, found none; run endcap build") from None
    except ValueError as error:
        raise StoreError(f"{path}: expected JSON, got {error}; run endcap build store") from error
    if not isinstance(meta, dict) or meta.get("format") != STORE_FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else meta
        raise StoreError(f"{path}: expected store format {STORE_FORMAT}, got {found}; run endcap build store")
    return meta
