"""Reads the files of a data set to import; errors name missing files and columns, as for catalogues."""

import logging
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from endcap_builders.catalogue.schema import Catalogue, CatalogueError
from endcap_builders.catalogue.write import write_catalogue
from endcap_builders.markup import plain_texts

log = logging.getLogger(__name__)

TEXTS = ("title", "description", "brand")


def read_source(
    folder: Path, file: str, columns: Sequence[str], optional: Sequence[str] = (), separator: str = "\t"
) -> pl.DataFrame:
    """The ``columns`` (and those of ``optional`` that exist) of a Parquet or delimited file in ``folder``.

    Delimited files are read as text throughout.

    Raises:
        CatalogueError: names the file or column that is missing or unreadable.
    """
    path = Path(folder) / file
    if not path.is_file():
        raise CatalogueError([f"{file}: expected in {folder}, got no such file; check the path of the data set"])
    try:
        if path.suffix == ".parquet":
            # On a damaged file, pyarrow raises, while polars panics and prints a backtrace.
            frame = pl.DataFrame(pl.from_arrow(pq.ParquetFile(path).read()))
        else:
            frame = pl.read_csv(path, separator=separator, infer_schema=False, glob=False)
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise CatalogueError([f"{file}: expected a readable file, got {reason}; download it again"]) from error
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise CatalogueError(
            [
                f"{file}, column {column}: expected in the file, got columns {', '.join(frame.columns)}; "
                "is this the published layout?"
                for column in missing
            ]
        )
    return frame.select(*columns, *(column for column in optional if column in frame.columns))


def write_import(
    target: Path,
    products: pl.DataFrame,
    events: pl.DataFrame | None = None,
    queries: pl.DataFrame | None = None,
    judgements: pl.DataFrame | None = None,
) -> Catalogue:
    """``write_catalogue`` with plain text in the products' title, description and brand (``markup.plain_text``).

    Products without a title are left out. Queries are not changed, because other files of the data set refer to them.

    Raises:
        CatalogueError: if the tables do not make a valid catalogue.
    """
    texts = [plain_texts(products[name]).alias(name) for name in TEXTS if name in products.columns]
    titled = products.with_columns(texts).filter(pl.col("title") != "")
    if titled.height < products.height:
        log.info("left out %d of %d products: no title", products.height - titled.height, products.height)
    return write_catalogue(target, titled, events, queries, judgements)


def choose(what: str, given: str, known: Sequence[str]) -> str:
    """``given`` if it is one of ``known``.

    Raises:
        CatalogueError: otherwise.
    """
    if given not in known:
        raise CatalogueError([f"option {what}: expected one of {', '.join(known)}, got {given!r}"])
    return given


def search_log(queries: pl.Series) -> pl.DataFrame:
    """A search log in which each of ``queries`` was searched once, for data sets that publish no frequencies."""
    return pl.DataFrame({"query": queries}).group_by("query", maintain_order=True).agg(count=pl.len().cast(pl.Int64))
