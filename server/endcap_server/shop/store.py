"""The item store: everything about products and search keywords that the stages and engines need, memory-mapped.

Stages exchange row numbers, and look up texts, prices and vectors here. The build step ``store`` writes the columns of
products and keywords (folder ``store/``), and the step ``index`` the links between them (``index/``).
"""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import numpy as np
from tokenizers import Tokenizer

from endcap_server.shop.columns import Array, Ragged, StoreError, StringColumn, create_array, load_array, save_array

STORE_FORMAT = 1
"""Increased with each change of the files. A store of another format is refused."""

KEYWORD_PRODUCTS = 64
"""Best products kept for each keyword."""


@dataclass(frozen=True)
class _Column:
    """The files of a column in a build.

    Attributes:
        kind: StringColumn, Ragged, or the type of an array's numbers.
        rows: "products" or "keywords" if it has one row for each; else "".
        ndim: Dimensions of an array.
        folder: Of the build.
        listed: Whether its texts are read into a list when it is opened.
    """

    kind: Any
    rows: str = ""
    ndim: int = 1
    folder: str = "store"
    listed: bool = False

    def open(self, build: Path, name: str) -> Any:
        if not hasattr(self.kind, "PARTS"):
            return load_array(build / self.folder, name, self.kind, self.ndim)
        column = self.kind.open(build / self.folder, name)
        return list(column) if self.listed else column

    def write(self, folder: Path, name: str, values: Any) -> None:
        if hasattr(self.kind, "PARTS"):
            self.kind.write(folder, name, values)
        else:
            save_array(folder, name, values, self.kind)


_OfProduct, _OfKeyword = partial(_Column, rows="products"), partial(_Column, rows="keywords")


@dataclass(frozen=True)
class ItemStore:
    """All columns of a build, mapped read-only; n products, m keywords, D dimensions."""

    product_ids: Annotated[StringColumn, _OfProduct(StringColumn)]
    titles: Annotated[StringColumn, _OfProduct(StringColumn)]
    vectors: Annotated[Array, _OfProduct(np.float16, ndim=2)]  # [n, D], unit length
    brand: Annotated[Array, _OfProduct(np.int32)]  # [n], position in brands, -1 none
    category: Annotated[Array, _OfProduct(np.int32)]  # [n], position in categories, -1 none
    brands: Annotated[list[str], _Column(StringColumn, listed=True)]
    categories: Annotated[list[str], _Column(StringColumn, listed=True)]  # full paths "a > b > c"
    category_labels: Annotated[list[str], _Column(StringColumn, listed=True)]  # the shoppers' names, distinct
    price: Annotated[Array, _OfProduct(np.float32)]  # [n], NaN unknown
    in_stock: Annotated[Array, _OfProduct(np.bool_)]  # [n]
    popularity: Annotated[Array, _OfProduct(np.float32)]  # [n], 0..1
    tokens: Annotated[Ragged, _OfProduct(Ragged)]  # cross-encoder token ids of each text, without special tokens
    captions: Annotated[Ragged, _OfProduct(Ragged)]  # positions in caption_tokens, ascending
    caption_tokens: Annotated[StringColumn, _Column(StringColumn)]
    keywords: Annotated[StringColumn, _OfKeyword(StringColumn)]
    keyword_vectors: Annotated[Array, _OfKeyword(np.float16, ndim=2)]  # [m, D], unit length
    keyword_counts: Annotated[Array, _OfKeyword(np.int64)]  # [m], searches in the log
    keyword_products: Annotated[Array, _OfKeyword(np.int32, ndim=2, folder="index")]  # [m, 64], best first, -1 padded
    keyword_category: Annotated[Array, _OfKeyword(np.int32, folder="index")]  # [m], position in categories, -1 mixed
    tokenizer: str  # tokenizer_digest of the tokenizer that made tokens
    max_product_tokens: int

    @classmethod
    def open(cls, build: Path, *, linked: bool = True) -> "ItemStore":
        """Open the store of the build folder ``build`` (which holds ``store/`` and ``index/``).

        With ``linked`` False, ``index/`` is not read: while a build runs, it belongs to an older store.
        ``keyword_products`` and ``keyword_category`` are then all -1.
        """
        meta = _read_meta(build / "store" / "store.json")
        linked = linked and (build / "index" / "keyword_products.npy").exists()
        columns = {
            name: column.open(build, name) for name, column in COLUMNS.items() if linked or column.folder != "index"
        }
        if not linked:
            count = len(columns["keywords"])
            columns["keyword_products"] = np.full((count, KEYWORD_PRODUCTS), -1, np.int32)
            columns["keyword_category"] = np.full(count, -1, np.int32)
        store = cls(**columns, tokenizer=str(meta["tokenizer"]), max_product_tokens=int(meta["max_product_tokens"]))
        rows = {"products": int(meta["products"]), "keywords": len(store.keywords), "": None}
        for name, column in COLUMNS.items():
            if rows[column.rows] not in (None, found := len(columns[name])):
                raise StoreError(
                    f"{build / column.folder}, column {name}: expected {rows[column.rows]} rows, got {found}; "
                    "store/ and index/ are not of the same build: run endcap build store, then endcap build index"
                )
        return store

    def __len__(self) -> int:
        """Return the number of products."""
        return len(self.product_ids)

    @property
    def dimension(self) -> int:
        """Return D, the dimensions of product and keyword vectors."""
        return int(self.vectors.shape[1])


COLUMNS: dict[str, _Column] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(ItemStore, include_extras=True).items()
    if hasattr(hint, "__metadata__")
}
"""Every column by its name."""

STORE_FILES = (
    "store/store.json",
    *(
        f"{column.folder}/{name}{part}.npy"
        for name, column in COLUMNS.items()
        for part in getattr(column.kind, "PARTS", ("",))
    ),
)
"""Files of a build that :meth:`ItemStore.open` maps."""


def write_columns(folder: Path, **columns: Any) -> None:
    """Write columns of :class:`ItemStore` into ``store/`` or ``index/`` of a build.

    Args:
        folder: Where to.
        columns: By the names of the fields of :class:`ItemStore`, all in the same order of products or keywords: texts,
            :class:`Ragged` or parts of one, or numbers that the column's type can hold. Texts and parts are read once
            and not held.
    """
    for name, values in columns.items():
        COLUMNS[name].write(folder, name, values)


def create_column(folder: Path, name: str, shape: tuple[int, ...]) -> Array:
    """The file of a column of numbers of :class:`ItemStore`, mapped into memory, to be filled in any order."""
    return create_array(folder, name, shape, COLUMNS[name].kind)


def write_products(folder: Path, tokenizer: str, max_product_tokens: int, **columns: Any) -> None:
    """Write the columns that are not of keywords, as :func:`write_columns`, and what is true of all of them.

    Args:
        folder: ``store/`` of a build.
        tokenizer: Digest of the tokenizer that made ``tokens``.
        max_product_tokens: Most tokens of a product.
        columns: Every column but those of keywords, and those that :func:`create_column` made.
    """
    write_columns(folder, **columns)
    products = len(columns["brand"])
    meta = {"products": products, "tokenizer": tokenizer, "max_product_tokens": max_product_tokens}
    text = json.dumps({"format": STORE_FORMAT, **meta}, indent=2)
    (folder / "store.json").write_text(text + "\n", encoding="utf-8")


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
