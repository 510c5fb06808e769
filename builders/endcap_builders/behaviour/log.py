"""A catalogue's events as arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from endcap_server.shop.store import ItemStore

Array = np.ndarray[Any, Any]
GRADES = {"view": 1, "cart": 2, "purchase": 3}


@dataclass(frozen=True)
class EventLog:
    """e events of known products, grouped by shopper, oldest first.

    Attributes:
        row: int64 [e], product.
        shopper: int64 [e], ascending from 0.
        day: int64 [e], days since 1970.
        bought: bool [e], whether it is of the strongest kind in the log (a purchase, if there are any).
        products: n, number of products in the catalogue.
        users: user_id of each shopper.
    """

    row: Array
    shopper: Array
    day: Array
    bought: Array
    products: int
    users: tuple[str, ...] = ()

    @classmethod
    def read(cls, events: pl.DataFrame, store: ItemStore) -> "EventLog":
        """Read the events (columns as `Catalogue.events`, in any order) of the products in the store."""
        ids = events["product_id"].unique()
        known = pl.DataFrame({"product_id": ids, "row": store.product_ids.find(ids.to_list())}).filter(
            pl.col("row") >= 0
        )
        table = (
            events.sort("user_id", "timestamp", maintain_order=True)
            .join(known, on="product_id", how="inner", maintain_order="left")
            .select(
                "user_id",
                pl.col("row"),
                pl.col("type").cast(pl.String).replace_strict(GRADES, return_dtype=pl.Int8).alias("grade"),
                pl.col("user_id").rle_id().cast(pl.Int64).alias("shopper"),
                pl.col("timestamp").dt.epoch("d").cast(pl.Int64).alias("day"),
            )
        )
        row, grade, shopper, day = (table[name].to_numpy() for name in ("row", "grade", "shopper", "day"))
        bought = grade == grade.max() if len(grade) else np.zeros(0, bool)
        users = tuple(table["user_id"].unique(maintain_order=True))
        return cls(row.astype(np.int64), shopper, day, bought, len(store), users)

    def __len__(self) -> int:
        return len(self.row)

    def take(self, chosen: Array) -> "EventLog":
        """The events at ``chosen`` (bool [e])."""
        row, shopper, day, bought = (each[chosen] for each in (self.row, self.shopper, self.day, self.bought))
        return EventLog(row, shopper, day, bought, self.products, self.users)

    def by_shopper(self) -> dict[int, Array]:
        """Products of each shopper's events, oldest first: int64 [h] each."""
        if not len(self):
            return {}
        start = np.flatnonzero(np.r_[True, self.shopper[1:] != self.shopper[:-1]])
        return dict(zip(self.shopper[start].tolist(), np.split(self.row, start[1:]), strict=True))
