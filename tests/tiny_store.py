"""Item stores of a few products for tests; a column that a test does not name holds nothing."""

from pathlib import Path
from typing import Any

import numpy as np
from endcap_server.shop.columns import Ragged, StringColumn
from endcap_server.shop.store import COLUMNS, write_columns, write_products


def write_tiny_products(
    build: Path, vectors: np.ndarray, *, tokenizer: str = "none", max_product_tokens: int = 8, **columns: Any
) -> None:
    """Write the columns of products, one a row of `vectors`: of no brand, category and price, all in stock."""
    count = len(vectors)
    known = {
        "product_ids": [f"p{row}" for row in range(count)],
        "vectors": vectors,
        "brand": np.full(count, -1),
        "category": np.full(count, -1),
        "price": np.full(count, np.nan),
        "in_stock": np.ones(count, bool),
        **columns,
    }
    known.setdefault("category_labels", [path.rpartition(" > ")[2] for path in known.get("categories", ())])
    empty = {name: _nothing(name, count) for name, column in COLUMNS.items() if column.rows != "keywords"}
    write_products(build / "store", tokenizer, max_product_tokens, **{**empty, **known})


def write_tiny_keywords(build: Path, keywords: list[str], vectors: np.ndarray) -> None:
    """Write the columns of keywords, the first of them the most searched."""
    count = len(keywords)
    write_columns(
        build / "store", keywords=keywords, keyword_vectors=vectors, keyword_counts=np.arange(count, 0, -1) - 1
    )


def _nothing(name: str, count: int) -> Any:
    """A column without content, of `count` products or of none."""
    column = COLUMNS[name]
    rows = count if column.rows else 0
    if column.kind is StringColumn:
        return [""] * rows
    return Ragged.of([[]] * rows) if column.kind is Ragged else np.zeros((rows,) + (1,) * (column.ndim - 1))
