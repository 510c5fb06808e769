"""What a shop shows of its products, from a catalogue folder: titles, brands, prices, stock and pictures."""

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from endcap_client.errors import InvalidArgument
from endcap_client.types import Product

_NEEDED = ("product_id", "title")
_OPTIONAL = ("brand", "category", "price", "in_stock", "image")
PICTURE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".avif": "image/avif",
}
"""Endings of files that are shown as pictures, and their media types."""
_MOST_PICTURE_BYTES = 1 << 20


def read_products(catalogue: Path) -> dict[str, Product]:
    """Return product id -> `Product` of a catalogue folder; `picture` is the column `image` as it stands there.

    This package has no Parquet reader, so it uses an installed one.

    Raises:
        InvalidArgument: there is no such table, or no reader.
    """
    # A file, or a folder of files as in Spark, with or without the extension.
    path = catalogue / "products.parquet"
    if not path.exists() and (catalogue / "products").is_dir():
        path = catalogue / "products"
    try:
        table = _read(path)
    except ModuleNotFoundError:
        raise InvalidArgument(
            "--catalogue needs polars or pyarrow to read products.parquet, and neither is installed here; "
            "install one of them or leave the option out"
        ) from None
    except Exception as error:  # each reader has its own errors
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidArgument.of("--catalogue", f"{path} with columns product_id and title", problem) from error
    count = len(table["product_id"])
    empty = [None] * count
    columns = [table.get(name, empty) for name in (*_NEEDED, *_OPTIONAL)]
    return {
        str(product_id): Product(
            str(title),
            brand=str(brand or ""),
            category=str(category or ""),
            price=None if price is None else float(price),
            in_stock=None if in_stock is None else float(in_stock),
            picture=str(image or ""),
        )
        for product_id, title, brand, category, price, in_stock, image in zip(*columns, strict=True)
    }


def titles_of(products: Mapping[str, Product]) -> dict[str, str]:
    """Return product id -> title."""
    return {product_id: product.title for product_id, product in products.items()}


def embedded(products: Mapping[str, Product], ids: Iterable[str], catalogue: Path | None) -> dict[str, Product]:
    """Return the products of these ids, with the pictures that are files of the catalogue as data: URIs, no others."""
    return {each: _embedded(products[each], catalogue) for each in ids if each in products}


def picture_file(catalogue: Path, image: str) -> Path | None:
    """Return the file of a picture below the catalogue folder; None for an address, another kind of file, or none."""
    if not image or "://" in image or image.startswith("data:"):
        return None
    try:
        root, path = catalogue.resolve(), (catalogue / image).resolve()
        if root in path.parents and path.suffix.lower() in PICTURE_TYPES and path.is_file():
            return path
    except (OSError, ValueError):
        # A name that no file can have.
        return None
    return None


def _embedded(product: Product, catalogue: Path | None) -> Product:
    path = picture_file(catalogue, product.picture) if catalogue is not None else None
    if path is None or path.stat().st_size > _MOST_PICTURE_BYTES:
        return replace(product, picture="")
    data = b64encode(path.read_bytes()).decode()
    return replace(product, picture=f"data:{PICTURE_TYPES[path.suffix.lower()]};base64,{data}")


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        from pyarrow import dataset
    except ModuleNotFoundError:
        import polars

        frame = polars.scan_parquet(path)
        names = set(frame.collect_schema().names())
        found: dict[str, list[Any]] = frame.select(_present(names)).collect().to_dict(as_series=False)
        return found
    table = dataset.dataset(path, format="parquet")
    columns: dict[str, list[Any]] = table.to_table(columns=_present(set(table.schema.names))).to_pydict()
    return columns


def _present(names: set[str]) -> list[str]:
    """The columns to read; a needed one is read even if it is not there, so that the reader says so."""
    return [*_NEEDED, *(name for name in _OPTIONAL if name in names)]
