"""Outcomes per view, with intervals over shoppers.

A rate is a sum of outcomes over a sum of views. A shopper's views depend on each other, so the variance of the rate is
that of a ratio of means over shoppers, by the delta method (Deng, Knoblich and Lu 2018, "Applying the Delta Method in
Metric Analytics", section 2).
"""

from typing import Any

import polars as pl
from scipy.stats import norm

from endcap_builders.intervals import CONFIDENCE
from endcap_builders.outcomes.events import KINDS

Z = float(norm.ppf((1 + CONFIDENCE) / 2))
LEAST_SHOPPERS = 30
"""Rates of fewer shoppers have no interval: the normal approximation needs more."""
OUTCOMES = tuple(KINDS.values())


def rates(frame: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Rates of groups.

    Args:
        frame: one row per view: the columns `by`, unit (the shopper), clicks, carts, purchases.
        by: columns that make the groups; none: one group of everything.

    Returns:
        One row per group: `by`, views, shoppers, and for each outcome NAME (sum), NAME_rate, NAME_low, NAME_high (null
        without an interval); most views first.
    """
    keys: list[Any] = by or [pl.lit(0).alias("all")]
    names = by or ["all"]
    units = frame.group_by([*keys, "unit"]).agg(pl.len().cast(pl.Float64).alias("views"), pl.col(OUTCOMES).sum())
    x = pl.col("views")
    sums = units.group_by(names).agg(
        x.sum(),
        pl.len().alias("shoppers"),
        (x * x).sum().alias("xx"),
        pl.col(OUTCOMES).sum(),
        *((x * pl.col(name)).sum().alias(f"x_{name}") for name in OUTCOMES),
        *((pl.col(name) * pl.col(name)).sum().cast(pl.Float64).alias(f"{name}_squared") for name in OUTCOMES),
    )
    n, found = pl.col("shoppers"), sums
    for name in OUTCOMES:
        rate = pl.col(name) / x
        squares = pl.col(f"{name}_squared") - 2 * rate * pl.col(f"x_{name}") + rate**2 * pl.col("xx")
        error = (squares.clip(0) * n / (n - 1)).sqrt() / x
        reliable = (n >= LEAST_SHOPPERS) & (pl.col(name) > 0)
        found = found.with_columns(
            rate.alias(f"{name}_rate"),
            pl.when(reliable).then((rate - Z * error).clip(0)).alias(f"{name}_low"),
            pl.when(reliable).then(rate + Z * error).alias(f"{name}_high"),
        )
    shown = [f"{name}{end}" for name in OUTCOMES for end in ("", "_rate", "_low", "_high")]
    return found.select(*by, pl.col("views").cast(pl.Int64), "shoppers", *shown).sort(
        "views", *by, descending=[True, *(False for _ in by)]
    )


def documents(found: pl.DataFrame, by: list[str]) -> list[dict[str, Any]]:
    """Rates as JSON: per group its columns `by`, views, shoppers, and per outcome count, value, low and high."""
    rows = []
    for row in found.iter_rows(named=True):
        document = {name: str(row[name]) if name == "day" else row[name] for name in (*by, "views", "shoppers")}
        for name in OUTCOMES:
            figures = {"value": row[f"{name}_rate"], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}
            known = {key: round(value, 6) for key, value in figures.items() if value is not None}
            document[name] = {"count": row[name], **known}
        rows.append(document)
    return rows
