"""Attributes events to pages.

An event that names a page (`page_id`) counts for this page, if the page showed the product. Every other event counts
for the last page before it that showed this product to this shopper, if that was no longer than a window ago. Several
events of one kind about one product of a page count once: a click that is followed by another is one click.
"""

from datetime import timedelta

import polars as pl

from endcap_builders.outcomes.events import KINDS

WINDOW_HOURS = 24.0
"""By default."""


def attribute(pages: pl.DataFrame, products: pl.DataFrame, events: pl.DataFrame, window: timedelta) -> pl.DataFrame:
    """The outcomes of pages.

    Args:
        pages: page, page_id, shopper, time.
        products: page, position, rank, product_id of what they showed; needed of products with events only.
        events: As `read_events` returns them.
        window: Longest time between a page and an event that does not name it.

    Returns:
        page, position, rank, product_id, kind; one row per page, product and kind of event.
    """
    owners = pages.select("page", "shopper", "page_id", "time")
    # A product that several placements of a page show counts for the first of them.
    firsts = products.unique(["page", "product_id"], keep="first", maintain_order=True).join(owners, on="page")
    numbered = events.with_row_index("event")
    named = numbered.filter(pl.col("page_id") != "").join(
        firsts.select("page", "position", "rank", "product_id", "page_id"), on=["page_id", "product_id"]
    )
    others = numbered.filter(pl.col("shopper") != "").join(named.select("event"), on="event", how="anti")
    last = (
        others.sort("time", "event")
        .join_asof(
            firsts.select("page", "position", "rank", "product_id", "shopper", "time").sort("time", "page"),
            on="time",
            by=["shopper", "product_id"],
            strategy="backward",
            tolerance=window,
            check_sortedness=False,
        )
        .filter(pl.col("page").is_not_null())
    )
    columns = ["page", "position", "rank", "product_id", "kind"]
    found = pl.concat([named.select(columns), last.select(columns)])
    return found.unique(["page", "product_id", "kind"], keep="first", maintain_order=True)


def with_outcomes(frame: pl.DataFrame, attributed: pl.DataFrame, on: list[str]) -> pl.DataFrame:
    """`frame` with the columns clicks, carts and purchases, Int64: how many outcomes each row has.

    Args:
        frame: one row per page, or per placement.
        attributed: As `attribute` returns it.
        on: ["page"], or ["page", "position"].
    """
    of_kind = [(pl.col("kind") == kind).sum().cast(pl.Int64).alias(kind) for kind in KINDS.values()]
    counts = attributed.group_by(on).agg(of_kind)
    return frame.join(counts, on=on, how="left", maintain_order="left").with_columns(
        pl.col(list(KINDS.values())).fill_null(0)
    )
