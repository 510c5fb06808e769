"""The schema of a catalogue folder: its tables, their columns, and the error about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from endcap_server.stages.contract import MAX_ID_BYTES

EVENT_TYPES = ("view", "cart", "purchase")
PATH_SEPARATOR = ">"
MAX_PROBLEMS = 10


@dataclass(frozen=True)
class Catalogue:
    """A checked catalogue in memory.

    Attributes:
        folder: where it was read from.
        products: one row a product: product_id, title, description ("" if none), brand (""), category ("a > b > c" or
            ""), identifiers ("a|b" or ""), image (""), caption (""), all String; price Float32 (null if unknown);
            in_stock Boolean (true if unknown).
        events: user_id, product_id String, timestamp Datetime(us, UTC), type String (view, cart or purchase); sorted by
            user_id, then timestamp. None if the catalogue has no events.parquet.
        queries: query String, count Int64; most frequent first. None without queries.parquet.
        judgements: query, product_id String, relevance Float32 as graded (any scale, larger is better). None without
            judgements.parquet.
        digest: SHA-256 (hex) over the names and bytes of the folder's files.
        warnings: suspicious values that do not prevent a build, one sentence each, with counts and the first rows.
        columns: columns of each table that the files have; the others have default values.
    """

    folder: Path
    products: pl.DataFrame
    events: pl.DataFrame | None
    queries: pl.DataFrame | None
    judgements: pl.DataFrame | None
    digest: str
    warnings: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class CatalogueError(ValueError):
    """A catalogue, or a source to import, is invalid; ``problems`` has one sentence per problem."""

    def __init__(self, problems: Sequence[str]):
        self.problems = tuple(problems)
        shown = list(self.problems[:MAX_PROBLEMS])
        if len(self.problems) > MAX_PROBLEMS:
            shown.append(f"... and {len(self.problems) - MAX_PROBLEMS} more")
        super().__init__("\n".join(shown))


@dataclass(frozen=True)
class Column:
    """One column of a catalogue file.

    Attributes:
        kind: id, text, path, price, flag, time, event, count or grade (``check.py`` has a check for each).
        required: whether the file must have the column, and every row a value.
        advice: what to do about a row with an invalid value.
        most_bytes: longest value in UTF-8, for ids that are used in requests.
    """

    name: str
    kind: str
    required: bool
    advice: str
    most_bytes: int | None = None


@dataclass(frozen=True)
class Table:
    """One table of a catalogue folder: a Parquet file, or a folder of them (``files.py``)."""

    name: str
    required: bool
    columns: tuple[Column, ...]

    @property
    def file(self) -> str:
        """Name of the file, or of the folder of files."""
        return f"{self.name}.parquet"


PRODUCTS = Table(
    "products",
    True,
    (
        Column("product_id", "id", True, "give every product an id of its own", MAX_ID_BYTES),
        Column("title", "text", True, "give every product a title, or leave the product out"),
        Column("description", "text", False, "store descriptions as text"),
        Column("brand", "text", False, "store brand names as text"),
        Column("category", "path", False, 'write the path as "a > b > c" without empty parts'),
        Column("price", "price", False, "leave an unknown price null"),
        Column("identifiers", "text", False, 'store part numbers, EANs and model numbers as text: "006R90321|4053162"'),
        Column("image", "text", False, "store the address of the image as text"),
        Column("caption", "text", False, "store captions as text"),
        Column("in_stock", "flag", False, "store it as boolean"),
    ),
)
EVENTS = Table(
    "events",
    False,
    (
        Column("user_id", "id", True, "leave events of unknown shoppers out"),
        Column("product_id", "id", True, "leave events without a product out"),
        Column("timestamp", "time", True, "store it as a Parquet timestamp (taken as UTC if it has no zone)"),
        Column("type", "event", True, "map other kinds of events to these three, or leave them out"),
    ),
)
QUERIES = Table(
    "queries",
    False,
    (
        Column("query", "text", True, "leave empty searches out"),
        Column("count", "count", True, "store how often the query was searched"),
    ),
)
JUDGEMENTS = Table(
    "judgements",
    False,
    (
        Column("query", "text", True, "leave judgements without a query out"),
        Column("product_id", "id", True, "leave judgements without a product out"),
        Column("relevance", "grade", True, "store a number that is larger for more relevant products"),
    ),
)
TABLES = (PRODUCTS, EVENTS, QUERIES, JUDGEMENTS)
