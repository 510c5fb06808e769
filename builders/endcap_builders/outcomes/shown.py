"""Reads exposures as tables, one segment at a time. Of the products, only those are kept that an event may refer to."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from endcap_server.exposures.segments import exposure_readers, schema

from endcap_builders.outcomes.errors import OutcomesError
from endcap_builders.outcomes.events import CLOCKS_DIFFER, Track


@dataclass(frozen=True)
class Shown:
    """What was shown.

    Attributes:
        pages: one row per page or search: page UInt32 (its number), page_id, ensemble, shopper ("" if unknown) String,
            time Datetime(us, UTC), generation, history, unknown_ids Int64.
        placements: page, position UInt32 (from 1), source, title String, keywords List(String).
        products: page, position, rank UInt32 (from 1, within the placement), product_id.
        scores: how often which score was shown: day Date, generation, ensemble, score Float32 (2 significant digits),
            count UInt32.
    """

    pages: pl.DataFrame
    placements: pl.DataFrame
    products: pl.DataFrame
    scores: pl.DataFrame


def read_shown(folder: Path, events: pl.DataFrame, now: datetime, track: Track) -> Shown:
    """The exposures of a folder, those of open segments too.

    Args:
        folder: Of the exposures.
        events: As `read_events` returns them.
        now: Later exposures are errors.
        track: For progress.

    Raises:
        OutcomesError: There are none, a segment cannot be read, or its times are in the future.
    """
    readers = _readers(folder)
    parts, first = list[Shown](), 0
    for read in track(readers, "segments of exposures", len(readers)):
        part = tables_of(_segment(read, folder), events, first)
        first += part.pages.height
        parts.append(part)
    if not first:
        raise OutcomesError(
            f"{folder}: expected exposures, got none; serve pages with `endcap serve --exposures {folder}` first"
        )
    shown = _distinct(
        Shown(*(pl.concat([getattr(part, name) for part in parts]) for name in Shown.__dataclass_fields__))
    )
    last = shown.pages["time"].max()
    if isinstance(last, datetime) and last > now + CLOCKS_DIFFER:
        raise OutcomesError(
            f"{folder}: expected pages up to now ({now:%Y-%m-%d %H:%M} UTC), got one of {last:%Y-%m-%d %H:%M}; check "
            "the clocks of the servers and of this machine"
        )
    return shown


def read_products(
    folder: Path, wanted: pl.Expr, shoppers: pl.DataFrame, most_pages: int, track: Track
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Every product of the latest pages.

    Args:
        folder: Of the exposures.
        wanted: Which pages.
        shoppers: Their shopper.
        most_pages: Older segments are left out after so many pages.
        track: For progress.

    Returns:
        page, page_id, shopper, time of the pages; page, position, rank, product_id, score of what they showed.

    Raises:
        OutcomesError: There are no such pages, or a segment cannot be read.
    """
    pages, products, count = list[pl.DataFrame](), list[pl.DataFrame](), 0
    readers = _readers(folder)
    for read in track(reversed(readers), "segments of exposures", len(readers)):
        if count >= most_pages:
            break
        frame = _segment(read, folder).filter(wanted).join(shoppers, on="shopper", how="semi", maintain_order="left")
        numbered = frame.unique("page_id", keep="first", maintain_order=True).with_row_index("page", count)
        pages.append(numbered.select("page", "page_id", "shopper", "time"))
        products.append(_products(_placements(numbered)))
        count += numbered.height
    if not count:
        raise OutcomesError(
            f"{folder}: expected pages of shoppers whose events are known, got none; user_id must be what "
            "requests send as SHOPPER, and the secret must be that of the servers"
        )
    return pl.concat(pages), pl.concat(products)


def tables_of(exposures: pl.DataFrame, events: pl.DataFrame, first: int = 0) -> Shown:
    """Exposures with the columns of a segment, as tables; the first page gets the number `first`."""
    numbered = exposures.with_row_index("page", first)
    pages = numbered.select("page", "page_id", "ensemble", "shopper", "time", "generation", "history", "unknown_ids")
    placements = _placements(numbered)
    products = _products(placements)
    dated = products.select("page", score=pl.col("score").round_sig_figs(2)).join(
        pages.select("page", "generation", "ensemble", day=pl.col("time").dt.date()), on="page"
    )
    scores = dated.group_by("day", "generation", "ensemble", "score").agg(pl.len().alias("count"))
    return Shown(
        pages,
        placements.select("page", "position", "source", "title", "keywords"),
        _referred_to(products.drop("score"), pages, events),
        scores,
    )


def _placements(numbered: pl.DataFrame) -> pl.DataFrame:
    return (
        numbered.select("page", "placements")
        .filter(pl.col("placements").list.len() > 0)
        .explode("placements")
        .with_columns(position=pl.int_range(1, pl.len() + 1, dtype=pl.UInt32).over("page"))
        .unnest("placements")
    )


def _products(placements: pl.DataFrame) -> pl.DataFrame:
    """page, position, rank, product_id, score of every product shown."""
    filled = placements.filter(pl.col("products").list.len() > 0)
    return filled.select(
        "page",
        "position",
        rank=pl.int_ranges(1, pl.col("products").list.len() + 1, dtype=pl.UInt32),
        product_id=pl.col("products"),
        score=pl.col("scores"),
    ).explode("rank", "product_id", "score")


def _referred_to(products: pl.DataFrame, pages: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """The products for which an event names the shopper or the page."""
    owned = products.join(pages.select("page", "shopper", "page_id"), on="page", maintain_order="left")
    wanted = pl.lit(False)
    for owner in ("shopper", "page_id"):
        keys = events.filter(pl.col(owner) != "").select(owner, "product_id").unique()
        owned = owned.join(
            keys.with_columns(pl.lit(True).alias(f"of_{owner}")),
            on=[owner, "product_id"],
            how="left",
            maintain_order="left",
        )
        wanted |= pl.col(f"of_{owner}").fill_null(False)
    return owned.filter(wanted).select("page", "position", "rank", "product_id")


def _readers(folder: Path) -> list[Callable[[], Any]]:
    try:
        return exposure_readers(folder)
    except FileNotFoundError as error:
        raise OutcomesError(str(error)) from None


def _segment(read: Callable[[], Any], folder: Path) -> pl.DataFrame:
    try:
        frame = pl.from_arrow(read())
    except FileNotFoundError:  # a server has deleted it meanwhile, as too much or too old
        frame = pl.from_arrow(schema().empty_table())
    except (OSError, pa.ArrowException) as error:
        raise OutcomesError(
            f"{folder}: expected segments of exposures, got one that cannot be read: {error}; move it away"
        ) from None
    assert isinstance(frame, pl.DataFrame)
    return frame


def _distinct(shown: Shown) -> Shown:
    """Each page once; folders that were copied together may hold a segment twice."""
    pages = shown.pages.unique("page_id", keep="first", maintain_order=True)
    if pages.height == shown.pages.height:
        return shown
    kept = pages.select("page")
    placements, products = (
        frame.join(kept, on="page", how="semi", maintain_order="left") for frame in (shown.placements, shown.products)
    )
    return Shown(pages, placements, products, shown.scores)
