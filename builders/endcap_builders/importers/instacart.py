"""Imports Instacart's baskets: products with aisle and department, anonymous baskets, full histories of some users."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from endcap_builders.catalogue.schema import Catalogue
from endcap_builders.importers.source import read_source, write_import

# The data set has no dates. Every user's last order is placed in the week before this time, a Saturday.
END = datetime(2017, 7, 1, tzinfo=UTC)
DEPARTMENTS = {
    "dairy eggs": "Dairy & Eggs",
    "meat seafood": "Meat & Seafood",
    "dry goods pasta": "Dry Goods & Pasta",
    "babies": "Baby",
    "international": "World Foods",
}
# Departments and aisles that mean "unknown".
UNKNOWN = ("missing", "other")


def import_instacart(source: Path, target: Path) -> Catalogue:
    """Products, and every product of a basket as a purchase.

    Times are constructed: a user's orders keep their distances in days, the day of the week (0 is taken as Saturday)
    and the hour, and end in the week before ``END``. Each basket without a user becomes a user; these are spread evenly
    over the year before ``END``, so that they add no false season. Products of an order are a minute apart, in the
    order in which they were added.
    """
    products = read_source(source, "products.parquet", ["product_id", "product_name", "aisle", "department"])
    baskets = read_source(source, "baskets.parquet", ["order_id", "product_id", "add_to_cart_order"])
    histories = read_source(
        source,
        "user_histories.parquet",
        [
            *("user_id", "order_id", "product_id", "add_to_cart_order", "order_number"),
            *("order_dow", "order_hour_of_day", "days_since_prior_order"),
        ],
    )
    known = ~pl.col("department").is_in(UNKNOWN) & ~pl.col("aisle").is_in(UNKNOWN)
    department = pl.col("department").replace(DEPARTMENTS)
    department = pl.when(department == pl.col("department")).then(department.str.to_titlecase()).otherwise(department)
    product_table = products.select(
        pl.col("product_id").cast(pl.String),
        title=pl.col("product_name"),
        category=pl.when(known).then(department + " > " + pl.col("aisle").str.to_titlecase()).otherwise(pl.lit("")),
    )
    events = pl.concat([_user_orders(histories), _loose_baskets(baskets)]).with_columns(
        pl.col("product_id").cast(pl.String), type=pl.lit("purchase")
    )
    return write_import(target, product_table, events)


def _user_orders(histories: pl.DataFrame) -> pl.DataFrame:
    orders = histories.unique(["user_id", "order_number"], maintain_order=True).sort("user_id", "order_number")
    days = pl.col("days_since_prior_order").fill_null(0).cum_sum().over("user_id")
    # Days from a user's order to the user's last one, which is on its weekday in the week before END.
    before_end = (7 - pl.col("order_dow").last().over("user_id")) + days.last().over("user_id") - days
    orders = orders.select(
        "user_id",
        "order_number",
        start=pl.lit(END) - pl.duration(days=before_end) + pl.duration(hours="order_hour_of_day"),
    )
    return histories.join(orders, on=["user_id", "order_number"], maintain_order="left").select(
        pl.format("user-{}", "user_id").alias("user_id"), "product_id", timestamp=_minute_apart()
    )


def _loose_baskets(baskets: pl.DataFrame) -> pl.DataFrame:
    orders = baskets.select("order_id").unique().sort("order_id").with_row_index("place")
    # Equal steps over the year, each basket at noon.
    day = (pl.col("place") * 364 // max(orders.height, 1)) + 1
    orders = orders.select("order_id", start=pl.lit(END) - pl.duration(days=day) + pl.duration(hours=12))
    return baskets.join(orders, on="order_id", maintain_order="left").select(
        pl.format("basket-{}", "order_id").alias("user_id"), "product_id", timestamp=_minute_apart()
    )


def _minute_apart() -> pl.Expr:
    return (pl.col("start") + pl.duration(minutes="add_to_cart_order")).cast(pl.Datetime("us", "UTC"))
