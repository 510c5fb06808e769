"""Tables of shopper behaviour for each product: recent sales, repeat purchases, and co-purchases.

The build step `behaviour` computes them from the events. The ranker is trained on the same tables as of earlier days. A
build without events has tables of zeros.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from endcap_server.shop.columns import Array, StoreError, load_array, save_array
from endcap_server.shop.store import ItemStore

FOLDER = "behaviour"
NEIGHBOURS = 50
"""Most neighbours of a product."""


@dataclass(frozen=True)
class Behaviour:
    """Tables of n products.

    A purchase is an event of the strongest kind in the log (in a log with only views, a view). A product counts once
    per day and shopper.

    Attributes:
        recent: float32 [n], purchases, weighted by recency: the weight halves every `half_life` days.
        first: float32 [n], the same, but only the first purchase of each shopper counts.
        bought: float32 [n], purchases of all time.
        shoppers: float32 [n], distinct shoppers who bought it.
        repeat: float32 [n], 0..1, share of its buyers who came back and bought it again, smoothed by its category.
        neighbour: int32 [n, 50], what the same shoppers bought, nearest first, -1 padded.
        nearness: float16 [n, 50], cosine of the two products' buyers, damped for rare products; 0 padded.
    """

    recent: Array
    first: Array
    bought: Array
    shoppers: Array
    repeat: Array
    neighbour: Array
    nearness: Array

    @classmethod
    def empty(cls, products: int) -> "Behaviour":
        """Tables of a shop without events."""
        zeros = np.zeros(products, np.float32)
        return cls(
            zeros,
            zeros,
            zeros,
            zeros,
            zeros,
            neighbour=np.full((products, NEIGHBOURS), -1, np.int32),
            nearness=np.zeros((products, NEIGHBOURS), np.float16),
        )

    @classmethod
    def open(cls, build: Path, store: ItemStore) -> "Behaviour":
        """Map the tables of a build; empty ones if it has none.

        Raises:
            StoreError: A file is missing or of another number of products.
        """
        folder = build / FOLDER
        if not folder.is_dir():
            return cls.empty(len(store))
        tables = cls(**{name: load_array(folder, name, dtype, ndim) for name, (dtype, ndim) in _COLUMNS.items()})
        for name in _COLUMNS:
            if (rows := len(getattr(tables, name))) != len(store):
                raise StoreError(
                    f"{folder / name}.npy: expected {len(store)} products as in store/, got {rows}; "
                    "run endcap build behaviour"
                )
        return tables

    def write(self, folder: Path) -> None:
        """Write the tables into ``folder``."""
        for name, (dtype, _) in _COLUMNS.items():
            save_array(folder, name, getattr(self, name), dtype)

    @cached_property
    def by_popularity(self) -> Array:
        """Products that sell, best first: int32 [at most n]."""
        order = np.argsort(-self.recent, kind="stable").astype(np.int32)
        return order[self.recent[order] > 0]


_COLUMNS = {
    **dict.fromkeys(("recent", "first", "bought", "shoppers", "repeat"), (np.float32, 1)),
    "neighbour": (np.int32, 2),
    "nearness": (np.float16, 2),
}

FILES = tuple(f"{FOLDER}/{name}.npy" for name in _COLUMNS)
"""What the build step `behaviour` writes for :class:`Behaviour`."""
