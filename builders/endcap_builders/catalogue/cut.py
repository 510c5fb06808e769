"""Which events a build uses. The others are held out, for `endcap evaluate storefront`."""

from datetime import UTC, datetime
from typing import Annotated

import polars as pl
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from endcap_builders.catalogue.schema import Catalogue, CatalogueError

LEAST_HISTORY = 10
"""Least events before the cut of a shopper whose page is measured."""
ORDER_GAP_HOURS = 3
"""A purchase later than this after the shopper's previous one starts a new order."""


def iso_time(text: str) -> str:
    """The text, if it is empty or an ISO date or time.

    Raises:
        ValueError: it is neither.
    """
    if text:
        try:
            datetime.fromisoformat(text)
        except ValueError:
            raise ValueError("expected a date or time such as 2017-10-16 or 2017-10-16T04:00:00") from None
    return text


Time = Annotated[str, AfterValidator(iso_time)]


def moment(text: str) -> datetime:
    """An ISO date or time; UTC without a zone."""
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


class EventCut(BaseModel):
    """Settings of the cut; by default, there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    events_until: Time = Field(
        default="", description="only events before this date or time (UTC) are used; empty: all"
    )
    hold_out_orders: int = Field(
        default=0,
        ge=0,
        description=f"last orders of each shopper that are not used, where {LEAST_HISTORY} events are left; for data "
        "without real times",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> "EventCut":
        if self.events_until and self.hold_out_orders:
            raise ValueError("events_until and hold_out_orders exclude each other: expected one of them, got both")
        return self

    @property
    def cuts(self) -> bool:
        """Whether events are held out."""
        return bool(self.events_until or self.hold_out_orders)

    def before(self, catalogue: Catalogue) -> Catalogue:
        """The catalogue with the events of the build.

        Raises:
            CatalogueError: There are no events to cut, or none is left.
        """
        return self.split(catalogue)[0] if self.cuts else catalogue

    def split(self, catalogue: Catalogue) -> tuple[Catalogue, pl.DataFrame]:
        """The catalogue with the events of the build, and the held-out events.

        Raises:
            CatalogueError: There are no events to cut, or none is left.
        """
        events = catalogue.events
        if events is None:
            raise CatalogueError([
                f"{catalogue.folder}/events.parquet: expected events to cut, got no such file; build without a cut"
            ])  # fmt: skip
        kept = pl.col("timestamp") < moment(self.events_until) if self.events_until else self._not_last(events)
        before, after = events.filter(kept), events.filter(~kept)
        if before.is_empty():
            first, last = events.select(pl.col("timestamp").min(), last=pl.col("timestamp").max()).row(0)
            raise CatalogueError([
                f"{catalogue.folder}/events.parquet: expected events before {self.events_until}, got events from "
                f"{first} to {last}; choose a later time"
            ])  # fmt: skip
        return Catalogue(**{**vars(catalogue), "events": before}), after

    def _not_last(self, events: pl.DataFrame) -> pl.Expr:
        """Whether an event is before the shopper's last orders; true for shoppers with too few other events."""
        bought = events.filter(pl.col("type") == "purchase").select("user_id", "timestamp")
        new = pl.col("timestamp").diff().over("user_id") > pl.duration(hours=ORDER_GAP_HOURS)
        orders = bought.with_columns(order=new.fill_null(True).cum_sum().over("user_id"))
        last = pl.col("order") > pl.col("order").max().over("user_id") - self.hold_out_orders
        start = orders.filter(last).group_by("user_id").agg(pl.col("timestamp").min().alias("start"))
        with_start = events.join(start, on="user_id", how="left", maintain_order="left")
        earlier = with_start["timestamp"] < with_start["start"]
        left = with_start.select("user_id", earlier=earlier).select(pl.col("earlier").sum().over("user_id"))
        return pl.lit(earlier.fill_null(True) | (left["earlier"] < LEAST_HISTORY))
