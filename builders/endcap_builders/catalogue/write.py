"""Writes a catalogue folder, checked and atomically."""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import polars as pl

from endcap_builders.catalogue.read import read_catalogue
from endcap_builders.catalogue.schema import EVENTS, JUDGEMENTS, PRODUCTS, QUERIES, TABLES, Catalogue, CatalogueError


def write_catalogue(
    folder: Path,
    products: pl.DataFrame,
    events: pl.DataFrame | None = None,
    queries: pl.DataFrame | None = None,
    judgements: pl.DataFrame | None = None,
) -> Catalogue:
    """Writes the tables to ``folder``, replacing the catalogue there, and returns it as ``read_catalogue`` does.

    The files are written beside the target and checked there, so a failure does not damage an earlier catalogue.

    Raises:
        CatalogueError: if the tables are no valid catalogue, or ``folder`` contains something else.
    """
    folder = Path(folder).absolute()
    _refuse_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fresh = work / "new"
        fresh.mkdir()
        tables = ((PRODUCTS, products), (EVENTS, events), (QUERIES, queries), (JUDGEMENTS, judgements))
        for table, frame in tables:
            if frame is not None:
                frame.write_parquet(fresh / table.file, compression="zstd")
        catalogue = read_catalogue(fresh)
        if folder.exists():
            os.rename(folder, work / "old")
        os.rename(fresh, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return replace(catalogue, folder=folder)


def _refuse_foreign(folder: Path) -> None:
    """Refuse to replace a folder with files that do not belong to a catalogue, because they would be deleted."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CatalogueError(
            [f"{folder}: expected a folder to write the catalogue to, got a file; choose another path"]
        )
    names = {table.file for table in TABLES}
    foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in names)
    if foreign:
        found = ", ".join(foreign[:5])
        raise CatalogueError(
            [f"{folder}: expected an empty folder or a catalogue's, got {found} in it; choose another path"]
        )
