"""Reads a catalogue folder and refuses what the builders cannot work with, saying file, column, row and remedy."""

import hashlib
import logging
from pathlib import Path

import polars as pl

from endcap_builders.catalogue.check import ROWS_SHOWN, ColumnCheck, default_column
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

log = logging.getLogger(__name__)


def read_catalogue(folder: Path) -> Catalogue:
    """Reads and checks the catalogue in ``folder``.

    Columns the catalogue format does not know are ignored. Events and judgements of products that are not in
    ``products.parquet`` (delisted ones, usually) are dropped and counted in the log; if none is left it is an error.
    Equal queries are added up, repeated judgements of a pair averaged.

    Raises:
        CatalogueError: with up to ten problems, each naming file, column, row (0 is the file's first), expected, got
            and what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CatalogueError([f"{folder}: expected a catalogue folder, got nothing there; check the path"])
    problems: list[str] = []
    frames = {table.name: _read_table(folder, table, problems) for table in TABLES}
    products = frames[PRODUCTS.name]
    if products is not None and not problems:
        for table in (EVENTS, JUDGEMENTS):
            frames[table.name] = _known_products(frames[table.name], products, table, problems)
    if problems or products is None:
        raise CatalogueError(problems)
    events, queries, judgements = (frames[table.name] for table in (EVENTS, QUERIES, JUDGEMENTS))
    if events is not None:
        events = events.sort("user_id", "timestamp", maintain_order=True)
    if queries is not None:
        queries = queries.group_by("query").agg(pl.col("count").sum())
        queries = queries.sort("count", "query", descending=[True, False])
    if judgements is not None:
        judgements = judgements.group_by("query", "product_id", maintain_order=True).agg(pl.col("relevance").mean())
    return Catalogue(folder, products, events, queries, judgements, catalogue_digest(folder))


def _read_table(folder: Path, table: Table, problems: list[str]) -> pl.DataFrame | None:
    """The checked table, or None if the optional file is absent or something was added to ``problems``."""
    path = folder / table.file
    if not path.is_file():
        if table.required:
            problems.append(f"{table.file}: expected in {folder}, got no such file; write one or check the path")
        return None
    try:
        raw = pl.read_parquet(path, glob=False)
    # Damaged pages surface as any of polars' errors, or as a panic, whose type derives from BaseException only.
    except (pl.exceptions.PolarsError, OSError, pl.exceptions.PanicException) as error:
        reason = str(error).splitlines()[0][:200]
        problems.append(
            f"{table.file}: expected a readable Parquet file, got {path.stat().st_size} bytes that do not read "
            f"({reason}); it may be truncated, write it again"
        )
        return None
    before = len(problems)
    known = [column.name for column in table.columns]
    ignored = [name for name in raw.columns if name not in known]
    if ignored:
        log.info("%s: columns not used: %s", table.file, ", ".join(ignored))
    columns = []
    for column in table.columns:
        if column.name in raw.columns:
            check = ColumnCheck(table.file, column, raw[column.name])
            problems.extend(check.problems)
            columns.append(check.values.alias(column.name))
        elif column.required:
            problems.append(
                f"{table.file}, column {column.name}: expected in the file, got columns "
                f"{', '.join(raw.columns) or '(none)'}; add or rename the column"
            )
        else:
            columns.append(default_column(column, raw.height))
    if len(problems) > before:
        return None
    frame = pl.DataFrame(columns)
    _check_table(frame, table, problems)
    return frame if len(problems) == before else None


def _check_table(frame: pl.DataFrame, table: Table, problems: list[str]) -> None:
    """What concerns a whole table: it has rows, ids are unique, grades differ."""
    if frame.is_empty():
        advice = "fill the file" if table.required else "fill the file or remove it"
        problems.append(f"{table.file}: expected at least one row, got none; {advice}")
        return
    if table is PRODUCTS:
        rows = frame.select("product_id").with_row_index("row")
        first = rows.group_by("product_id").agg(pl.col("row").min().alias("first"))
        again = rows.join(first, on="product_id").filter(pl.col("row") > pl.col("first")).sort("row")
        for row, product_id, earlier in again.head(ROWS_SHOWN).select("row", "product_id", "first").iter_rows():
            problems.append(
                f"{table.file}, column product_id, row {row}: expected an id of its own, got {product_id!r} as in row "
                f"{earlier}; keep one of the two rows"
            )
        if again.height > ROWS_SHOWN:
            problems[-1] += f" (and {again.height - ROWS_SHOWN} more rows like this)"
    elif table is JUDGEMENTS and frame["relevance"].n_unique() == 1:
        problems.append(
            f"{table.file}, column relevance, row 0: expected at least two different grades, got "
            f"{frame['relevance'][0]:g} in all rows; add judgements of less relevant products, or remove the file"
        )


def _known_products(
    frame: pl.DataFrame | None, products: pl.DataFrame, table: Table, problems: list[str]
) -> pl.DataFrame | None:
    """``frame`` without the rows whose product is not in ``products``."""
    if frame is None:
        return None
    known = frame.join(products.select("product_id"), on="product_id", how="semi", maintain_order="left")
    dropped = frame.height - known.height
    if known.is_empty():
        problems.append(
            f"{table.file}, column product_id, row 0: expected an id of products.parquet, got "
            f"{frame['product_id'][0]!r}, and none of the other {frame.height - 1} rows has one; use the same ids in "
            "both files"
        )
    elif dropped:
        log.warning(
            "%s: dropped %d of %d rows: products.parquet has no such product", table.file, dropped, frame.height
        )
    return known


def catalogue_digest(folder: Path) -> str:
    """SHA-256 over the files of a catalogue folder, without reading them as tables."""
    digest = hashlib.sha256()
    for table in TABLES:
        path = folder / table.file
        if path.is_file():
            digest.update(f"{table.file}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()
