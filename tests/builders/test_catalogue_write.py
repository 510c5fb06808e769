from pathlib import Path

import polars as pl
import pytest
from endcap_builders.catalogue import CatalogueError, read_catalogue, write_catalogue

PRODUCTS = pl.DataFrame({"product_id": ["a", "b"], "title": ["Oats", "Milk"]})
QUERIES = pl.DataFrame({"query": ["oats"], "count": [1]})


def test_returns_what_is_read_back(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "shop"
    written = write_catalogue(target, PRODUCTS, queries=QUERIES)
    read = read_catalogue(target)
    assert written.folder == target
    assert written.digest == read.digest
    assert written.products.equals(read.products)
    assert sorted(path.name for path in target.iterdir()) == ["products.parquet", "queries.parquet"]


def test_replaces_a_catalogue_whole(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "shop", PRODUCTS, queries=QUERIES)
    write_catalogue(tmp_path / "shop", PRODUCTS.head(1))
    catalogue = read_catalogue(tmp_path / "shop")
    assert catalogue.products.height == 1
    assert catalogue.queries is None
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_a_bad_table_leaves_the_old_catalogue(tmp_path: Path) -> None:
    before = write_catalogue(tmp_path / "shop", PRODUCTS).digest
    with pytest.raises(CatalogueError, match="column title, row 0: expected text, got null"):
        write_catalogue(tmp_path / "shop", PRODUCTS.with_columns(title=pl.lit(None)))
    assert read_catalogue(tmp_path / "shop").digest == before
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_never_replaces_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not delete", encoding="utf-8")
    with pytest.raises(CatalogueError, match=r"thesis\.txt in it; choose another path"):
        write_catalogue(tmp_path, PRODUCTS)
    with pytest.raises(CatalogueError, match="got a file"):
        write_catalogue(tmp_path / "thesis.txt", PRODUCTS)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "do not delete"
