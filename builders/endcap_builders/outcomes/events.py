"""Reads the events that followed the pages: who looked at, added to the cart or bought what, and when."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import polars as pl
from endcap_server.exposures.record import SECRET_FILE, ShopperKeys

from endcap_builders.catalogue.files import read_table
from endcap_builders.catalogue.read import checked_columns
from endcap_builders.catalogue.schema import EVENTS, CatalogueError, Column, Table
from endcap_builders.outcomes.errors import OutcomesError

KINDS = {"view": "clicks", "cart": "carts", "purchase": "purchases"}
"""Types of events, and what they are called as outcomes of a page."""
CLOCKS_DIFFER = timedelta(minutes=5)
"""Times later than now by more than this are errors."""
_TABLE = Table(
    EVENTS.name,
    True,
    (*EVENTS.columns, Column("page_id", "text", False, "store STATUS.page_id of the page that the event came from")),
)


class Track(Protocol):
    """A progress bar around the items of a loop."""

    def __call__(self, items: Iterable[Any], description: str, total: float | None = None) -> Iterable[Any]:
        """The items."""


def shopper_keys(exposures: Path, secret: Path | None) -> ShopperKeys:
    """The hashes of shoppers, by the secret of the deployment.

    Args:
        exposures: Folder of exposures; the secret of a build lies beside it.
        secret: File of the secret; None: as `endcap serve` puts it.

    Raises:
        OutcomesError: There is no secret.
    """
    file = secret or exposures.resolve().parent / SECRET_FILE
    advice = f"name the file {SECRET_FILE} of the build that was served with --secret FILE"
    try:
        found = file.read_bytes().strip()
    except OSError as error:
        raise OutcomesError(f"{file}: expected the secret of the deployment, got {error.strerror}; {advice}") from None
    if not found:
        raise OutcomesError(f"{file}: expected the secret of the deployment, got an empty file; {advice}")
    return ShopperKeys(found)


def read_events(path: Path, keys: ShopperKeys, now: datetime, track: Track) -> pl.DataFrame:
    """The events of a Parquet file, or of a folder of them, with the hashes of the shoppers' keys.

    Returns:
        shopper, product_id, page_id ("" if none) String; time Datetime(us, UTC); kind: clicks, carts or purchases;
        sorted by time.

    Raises:
        OutcomesError: There are no events, or some are in the future.
        CatalogueError: The file is no table of events; each problem names column and row.
    """
    frame = _checked(path)
    late = frame.filter(pl.col("timestamp") > now + CLOCKS_DIFFER)
    if late.height:
        raise OutcomesError(
            f"{path}, column timestamp: expected times up to now ({now:%Y-%m-%d %H:%M} UTC), got {late.height:,} later "
            f"ones, such as {late['timestamp'][0]:%Y-%m-%d %H:%M}; check the time zone and the clock"
        )
    return hashed_events(frame, keys, track)


def hashed_events(frame: pl.DataFrame, keys: ShopperKeys, track: Track) -> pl.DataFrame:
    """Checked events (user_id, product_id, timestamp, type; page_id if there is one) as `read_events` returns them."""
    users = frame["user_id"].unique(maintain_order=True)
    hashes = [keys.hashed(user.encode()) for user in track(users, "hashes of shoppers", len(users))]
    hashed = pl.DataFrame({"user_id": users, "shopper": pl.Series(hashes, dtype=pl.String)})
    joined = frame.join(hashed, on="user_id", how="left", maintain_order="left")
    page = pl.col("page_id") if "page_id" in frame.columns else pl.lit("").alias("page_id")
    kind = pl.col("type").cast(pl.String).replace_strict(KINDS, return_dtype=pl.String)
    return joined.select("shopper", "product_id", page, time="timestamp", kind=kind).sort("time", maintain_order=True)


def _checked(path: Path) -> pl.DataFrame:
    if not path.exists():
        raise OutcomesError(f"{path}: expected a Parquet file of events or a folder of them, got nothing there")
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if not files:
        raise OutcomesError(f"{path}: expected Parquet files in this folder, got none")
    problems: list[str] = []
    raw = read_table(path, files, _TABLE, problems)
    frame = pl.DataFrame() if raw is None else checked_columns(raw, _TABLE, problems)
    if problems:
        raise CatalogueError(problems)
    if frame.is_empty():
        raise OutcomesError(f"{path}: expected events, got a table without rows")
    return frame
