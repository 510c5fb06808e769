"""Imports Complete Journey: a grocer's products as upper-case codes, and purchases of households with real times.

The data set has no titles. ``shopper_words`` converts codes to words, with the codes as only evidence.
"""

import logging
from pathlib import Path

import polars as pl

from endcap_builders.catalogue.schema import Catalogue
from endcap_builders.catalogue.shopper_words import shopper_words
from endcap_builders.importers.source import read_source, write_import

log = logging.getLogger(__name__)

# Departments, categories and types that are not merchandise.
NOT_MERCHANDISE = (
    *("FUEL", "COUPON", "CHARITABLE CONT", "POSTAL CENTER", "CNTRL/STORE SUP", "GM MERCH EXP", "PROD-WHS SALES"),
    *("COUPON/MISC ITEMS", "COUPONS/STORE & MFG", "BOTTLE DEPOSITS", "TICKETS", "CONTINUITIES", "PROD SUPPLIES"),
    *("DELI SUPPLIES", "MEAT SUPPLIES", "NON EDIBLE PRODUCTS", "LONG DISTANCE CALLING CARDS", "PHARMACY"),
    *("PREPAID WIRELESS&ACCESSORIES", "IN-STORE PHOTOFINISHING", "OVERNIGHT PHOTOFINISHING", "J-HOOKS", "NEW AGE"),
    *("GASOLINE-REG UNLEADED", "PHOTO & VIDEO", "TRAVEL & LEISURE", "MISCELLANEOUS", "DOLLAR VALUE PRODUCTS"),
)
FIELDS = ("department", "product_category", "product_type")


def import_completejourney(source: Path, target: Path) -> Catalogue:
    """Merchandise with readable titles, and every purchase line as an event at its time (taken as UTC).

    A product is named by its type, "Store Brand" if it is the grocer's own (national brands are not named in the data)
    and its package size. Prices are medians of what was paid for one. Fuel, coupons, deposits, services and products
    without a category are left out, with their purchases.
    """
    products = read_source(
        source,
        "products.parquet",
        ["product_id", "department", "brand", "product_category", "product_type", "package_size"],
    )
    lines = read_source(
        source,
        "transactions.parquet",
        ["household_id", "product_id", "quantity", "sales_value", "transaction_timestamp"],
    )
    merchandise = products.filter(
        pl.col("product_category").is_not_null()
        & ~pl.any_horizontal(pl.col(field).is_in(NOT_MERCHANDISE).fill_null(False) for field in FIELDS)
    )
    log.info("left out %d of %d products: no merchandise", products.height - merchandise.height, products.height)
    merchandise = merchandise.with_columns(path=pl.concat_str(FIELDS, separator=" > ", ignore_nulls=True))
    names = _names(merchandise["path"])
    price = (
        lines.filter((pl.col("quantity") > 0) & (pl.col("sales_value") > 0))
        .group_by("product_id")
        .agg(price=(pl.col("sales_value") / pl.col("quantity")).median().round(2).cast(pl.Float32))
    )
    own = pl.when(pl.col("brand") == "Private").then(pl.lit("Store Brand")).otherwise(pl.lit(""))
    # The size of fresh produce is that of the grower's case, not of a package.
    size = (
        pl.when(pl.col("department") == "PRODUCE").then(pl.lit("")).otherwise(pl.col("package_size").fill_null(""))
    ).str.to_lowercase()
    for short, long in {"ga": "gal", "dz": "dozen", "refil": "refill"}.items():
        size = size.str.replace(rf"\b{short}\b", long)
    product_table = (
        merchandise.join(names, on="path", how="left", maintain_order="left")
        .join(price, on="product_id", how="left", maintain_order="left")
        .select(
            pl.col("product_id").cast(pl.String),
            title=pl.concat_str(
                pl.concat_str(own, pl.col("title"), separator=" ").str.strip_chars(), size, separator=", "
            ).str.strip_chars_end(", "),
            description="about",
            brand=own,
            category="category",
            price="price",
        )
    )
    events = lines.join(merchandise, on="product_id", how="semi", maintain_order="left").select(
        pl.col("household_id").cast(pl.String).alias("user_id"),
        pl.col("product_id").cast(pl.String),
        timestamp="transaction_timestamp",
        type=pl.lit("purchase"),
    )
    return write_import(target, product_table, events)


def _names(paths: pl.Series) -> pl.DataFrame:
    """Title (without brand and size), readable category path and description of each distinct path of codes."""
    labels = shopper_words(paths)
    rows = []
    for path in paths.unique(maintain_order=True):
        parts = path.split(" > ")
        above = [labels[" > ".join(parts[:depth])].text for depth in range(1, len(parts) + 1)]
        rows.append((path, above[-1], " > ".join(above), f"{above[1]}, from the {above[0]} department."))
    return pl.DataFrame(rows, schema=["path", "title", "category", "about"], orient="row")
