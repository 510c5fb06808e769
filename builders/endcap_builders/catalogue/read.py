"""Reads and checks a catalogue folder; errors name file, column, row and remedy."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import polars as pl

from endcap_builders.catalogue.check import ROWS_SHOWN, ColumnCheck, default_column
from endcap_builders.catalogue.files import (
    RawTable,
    describe_near_miss,
    missing_column,
    near_misses,
    read_table,
    table_files,
)
from endcap_builders.catalogue.schema import (
    EVENTS,
    JUDGEMENTS,
    PRODUCTS,
    QUERIES,
    TABLES,
    Catalogue,
    CatalogueError,
    Table,
)
from endcap_builders.catalogue.suspicions import likely_cause, suspicions

log = logging.getLogger(__name__)


def read_catalogue(folder: Path) -> Catalogue:
    """Reads and checks the catalogue in ``folder``.

    Unknown columns are ignored. Events and judgements of unknown products (usually delisted ones) are dropped with a
    warning; it is an error if none is left. Counts of equal queries are added up, and repeated judgements of a pair are
    averaged. Warnings are logged and kept in the catalogue.

    Raises:
        CatalogueError: with up to ten problems, each naming file, column, row (0 is the file's first), expected, got
            and what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CatalogueError([f"{folder}: expected a catalogue folder, got nothing there; check the path"])
    problems: list[str] = []
    warnings: list[str] = []
    near = near_misses(folder)
    found: dict[str, tuple[str, ...]] = {}
    frames = {table.name: _read_table(folder, table, near, problems, warnings, found) for table in TABLES}
    products = frames[PRODUCTS.name]
    if products is not None and not problems:
        for table in (EVENTS, JUDGEMENTS):
            frames[table.name] = _known_products(frames[table.name], products, table, problems, warnings)
    if problems or products is None:
        raise CatalogueError(problems)
    events, queries, judgements = (frames[table.name] for table in (EVENTS, QUERIES, JUDGEMENTS))
    warnings += suspicions(products, events)
    for warning in warnings:
        log.warning("%s", warning)
    if events is not None:
        events = events.sort("user_id", "timestamp", maintain_order=True)
    if queries is not None:
        queries = queries.group_by("query").agg(pl.col("count").sum())
        queries = queries.sort("count", "query", descending=[True, False])
    if judgements is not None:
        judgements = judgements.group_by("query", "product_id", maintain_order=True).agg(pl.col("relevance").mean())
    return Catalogue(folder, products, events, queries, judgements, catalogue_digest(folder), tuple(warnings), found)


def _read_table(
    folder: Path,
    table: Table,
    near: dict[str, str],
    problems: list[str],
    warnings: list[str],
    found: dict[str, tuple[str, ...]],
) -> pl.DataFrame | None:
    """The checked table, or None if the optional table is absent or something was added to ``problems``.

    ``found`` gets the declared columns that its files have.
    """
    before = len(problems)
    places = table_files(folder, table, problems)
    meant = [name for name, file in near.items() if file == table.file]
    if places is None:
        if len(problems) == before:
            problems.extend(describe_near_miss(name, table.file) for name in meant)
            if table.required and not meant:
                problems.append(f"{table.file}: expected in {folder}, got no such file; write one or check the path")
        return None
    if meant:
        warnings.append(f"{', '.join(meant)}: not read, because {places[0].name} is there; remove what is not needed")
    raw = read_table(*places, table, problems)
    if raw is None:
        return None
    found[table.name] = tuple(column.name for column in table.columns if column.name in raw.columns)
    ignored = [name for name in raw.names if name not in {column.name for column in table.columns}]
    if ignored:
        log.info("%s: columns not used: %s", raw.place, ", ".join(ignored))
    frame = checked_columns(raw, table, problems)
    if len(problems) > before:
        return None
    _check_table(frame, raw, table, problems)
    return frame if len(problems) == before else None


def checked_columns(raw: RawTable, table: Table, problems: list[str]) -> pl.DataFrame:
    """The columns that ``table`` declares, with defaults for optional ones; what is wrong goes to ``problems``."""
    columns = []
    for column in table.columns:
        if column.name in raw.columns:
            check = ColumnCheck(raw.place, column, raw.columns[column.name], raw.where)
            problems.extend(check.problems)
            columns.append(check.values.alias(column.name))
        elif column.required:
            problems.append(missing_column(raw, column))
        else:
            columns.append(default_column(column, raw.height))
    return pl.DataFrame(columns)


def _check_table(frame: pl.DataFrame, raw: RawTable, table: Table, problems: list[str]) -> None:
    """Checks of a whole table: it has rows, ids are unique, grades differ."""
    if frame.is_empty():
        advice = "fill the file" if table.required else "fill the file or remove it"
        problems.append(f"{raw.place}: expected at least one row, got none; {advice}")
        return
    if table is PRODUCTS:
        rows = frame.select("product_id").with_row_index("row")
        first = rows.group_by("product_id").agg(pl.col("row").min().alias("first"))
        again = rows.join(first, on="product_id").filter(pl.col("row") > pl.col("first")).sort("row")
        for row, product_id, earlier in again.head(ROWS_SHOWN).select("row", "product_id", "first").iter_rows():
            file, row_there = raw.where(row)
            first_file, first_row = raw.where(earlier)
            problems.append(
                f"{file}, column product_id, row {row_there}: expected an id of its own, got {product_id!r} as in row "
                f"{first_row}{'' if first_file == file else f' of {first_file}'}; keep one of the two rows"
            )
        if again.height > ROWS_SHOWN:
            problems[-1] += f" (and {again.height - ROWS_SHOWN} more rows like this)"
    elif table is JUDGEMENTS and frame["relevance"].n_unique() == 1:
        problems.append(
            f"{raw.place}, column relevance, row 0: expected at least two different grades, got "
            f"{frame['relevance'][0]:g} in all rows; add judgements of less relevant products, or remove the file"
        )


def _known_products(
    frame: pl.DataFrame | None, products: pl.DataFrame, table: Table, problems: list[str], warnings: list[str]
) -> pl.DataFrame | None:
    """``frame`` without the rows whose product is not in ``products``."""
    if frame is None:
        return None
    join: dict[str, Any] = {"on": "product_id", "maintain_order": "left"}
    known = frame.join(products.select("product_id"), how="semi", **join)
    if known.height == frame.height:
        return frame
    unknown = frame.join(products.select("product_id"), how="anti", **join)["product_id"]
    cause = likely_cause(unknown, products["product_id"])
    if known.is_empty():
        problems.append(
            f"{table.file}, column product_id, row 0: expected an id of {PRODUCTS.file}, got {unknown[0]!r}, and none "
            f"of the other {frame.height - 1} rows has one; {f'{cause}; ' if cause else ''}use the same ids in both "
            "files"
        )
    else:
        warnings.append(
            f"{table.file}: dropped {len(unknown):,} of {frame.height:,} rows: {PRODUCTS.file} has no such product "
            f"(such as {unknown[0]!r})" + (f"; {cause}" if cause else "")
        )
    return known


def catalogue_digest(folder: Path) -> str:
    """SHA-256 over the files of a catalogue folder, without reading them as tables."""
    digest = hashlib.sha256()
    for table in TABLES:
        _, files = table_files(folder, table, []) or (None, [])
        for path in files:
            digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()
