"""Imports Complete Journey: a grocer's products as upper-case codes, and purchases of households with real times."""

import logging
import re
import tomllib
from importlib import resources
from pathlib import Path

import polars as pl

from endcap_builders.catalogue.schema import Catalogue
from endcap_builders.importers.source import read_source, write_import

log = logging.getLogger(__name__)

# Codes are cut off at this length, usually inside a word.
CUT = 30


class Codes:
    """Turns the grocer's codes ("FRZN MEAT/MEAT DINNERS") into words ("Frozen Meat, Meat Dinners")."""

    def __init__(self, codes: list[str]):
        tables = tomllib.loads(
            resources.files(__package__).joinpath("completejourney.toml").read_text(encoding="utf-8")
        )
        self._words: dict[str, str] = tables["words"]
        self._titles: dict[str, str] = tables["titles"]
        self._departments: dict[str, str] = tables["departments"]
        self._generic = set(tables["generic"])
        self._no_kind = set(tables["no_kind"])
        self.not_merchandise: list[str] = tables["not_merchandise"]
        whole = (code for code in codes if len(code) < CUT)
        self._known = {word for code in whole for word in re.findall(r"[A-Z']+", code)} | set(self._words)

    def department(self, code: str) -> str:
        """Readable name of a department."""
        return self._departments.get(code) or self.readable(code)

    def title(self, kind: str, category: str) -> str:
        """Readable name of a product type; of its category too where the type alone says nothing ("PREMIUM")."""
        if kind in self._titles:
            return self._titles[kind]
        words = re.findall(r"[A-Z']+", kind)
        name = self.readable(kind)
        if not name or all(word in self._generic for word in words):
            # The first of several names is enough: "ICE CREAM/MILK/SHERBTS".
            shelf = self.readable(re.split("[/(]", category)[0])
            return name if shelf in name else f"{name} {shelf}".strip()
        return name

    def readable(self, code: str) -> str:
        """The code in words, each with a capital, without what was cut off at its end."""
        cut = len(code) >= CUT
        text = re.sub(r"\([^)]*\)", " ", code)
        text, _, opened = text.partition("(")
        if cut and not opened:
            last = re.search(r"[A-Z']+$", text)
            if last and (len(last.group()) == 1 or last.group() not in self._known):
                text = text[: last.start()]
        text = re.sub(r"\.(?!\d)", " ", text)
        kind, colon, rest = text.partition(":")
        if colon:
            # "BREAD:ITALIAN" is Italian bread, "SW GDS:DONUTS" are donuts.
            text = rest if kind.strip() in self._no_kind else f"{rest} {kind}"
        parts = []
        for part in re.split(r"\s*/\s*|\s+-\s*|,", text):
            words = [self._words.get(word, word.capitalize()) for word in re.findall(r"[A-Z0-9.%']+|&", part)]
            name = re.sub(r"^and | (and|with|in)$", "", " ".join(word for word in words if word).strip("& "))
            if name and name not in parts:
                parts.append(name)
        return ", ".join(parts)


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
    fields = ("department", "product_category", "product_type")
    codes = Codes([code for field in fields for code in products[field].drop_nulls().unique().to_list()])
    merchandise = products.filter(
        pl.col("product_category").is_not_null()
        & ~pl.any_horizontal(pl.col(field).is_in(codes.not_merchandise).fill_null(False) for field in fields)
    )
    log.info("left out %d of %d products: no merchandise", products.height - merchandise.height, products.height)
    kinds = merchandise.select(fields).unique().sort(fields, nulls_last=True)
    names = pl.DataFrame(
        [_names(codes, *kind) for kind in kinds.iter_rows()], schema=["title", "category", "about"], orient="row"
    )
    price = (
        lines.filter((pl.col("quantity") > 0) & (pl.col("sales_value") > 0))
        .group_by("product_id")
        .agg(price=(pl.col("sales_value") / pl.col("quantity")).median().round(2).cast(pl.Float32))
    )
    own = pl.when(pl.col("brand") == "Private").then(pl.lit("Store Brand")).otherwise(pl.lit(""))
    # Fresh produce carries the size of the grower's case, which nobody takes home.
    size = (
        pl.when(pl.col("department") == "PRODUCE").then(pl.lit("")).otherwise(pl.col("package_size").fill_null(""))
    ).str.to_lowercase()
    for short, long in {"ga": "gal", "dz": "dozen", "refil": "refill"}.items():
        size = size.str.replace(rf"\b{short}\b", long)
    product_table = (
        merchandise.join(kinds.hstack(names), on=list(fields), how="left", nulls_equal=True, maintain_order="left")
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


def _names(codes: Codes, department: str, category: str, kind: str | None) -> tuple[str, str, str]:
    """Title (without brand and size), category path and description of a kind of product."""
    title = codes.title(kind or "", category)
    path = [codes.department(department), codes.readable(category)]
    type_name = codes.readable(kind or "")
    if type_name and type_name != path[-1]:
        path.append(type_name)
    return title, " > ".join(part for part in path if part), f"{path[1]}, from the {path[0]} department."
