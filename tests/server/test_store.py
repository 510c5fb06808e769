import json
from pathlib import Path

import numpy as np
import pytest
from endcap_server.shop.array_files import AT_ONCE, load_array
from endcap_server.shop.store import (
    ItemStore,
    Ragged,
    StoreError,
    StringColumn,
    create_column,
    write_columns,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import write_tiny_keywords, write_tiny_products


def write_store(build: Path, products: int = 3, keywords: int = 2) -> None:
    rng = np.random.default_rng(7)
    write_tiny_products(
        build,
        rng.standard_normal((products, 4)),
        product_ids=[f"id-{row}" for row in range(products)],
        titles=[f"Lamp {row} für 20 €" for row in range(products)],
        brand=np.arange(products) - 1,
        brands=["Acme", "Borealis"],
        category=np.zeros(products),
        categories=["home > lamps"],
        popularity=np.linspace(0, 1, products),
        tokens=Ragged.of([list(range(row)) for row in range(products)]),
        tokenizer="0123",
        max_product_tokens=48,
    )
    write_tiny_keywords(build, [f"lamp {row}" for row in range(keywords)], rng.standard_normal((keywords, 4)))


def test_store_round_trip(tmp_path: Path) -> None:
    write_store(tmp_path)
    store = ItemStore.open(tmp_path)
    assert len(store) == 3
    assert store.dimension == 4
    assert store.titles[2] == "Lamp 2 für 20 €"
    assert store.titles.take(np.array([1, 0])) == ["Lamp 1 für 20 €", "Lamp 0 für 20 €"]
    assert store.product_ids.find(["id-2", "nobody", "id-0"]).tolist() == [2, -1, 0]
    assert store.vectors.dtype == np.float16
    assert store.brand.tolist() == [-1, 0, 1]
    assert store.brands == ["Acme", "Borealis"]
    assert store.tokens.row(2).tolist() == [0, 1]
    assert store.tokens.lengths(np.array([[0, 2]])).tolist() == [[0, 2]]
    assert store.captions.row(1).tolist() == []
    assert store.in_stock.dtype == np.bool_
    assert store.keyword_products.shape == (2, 64)
    assert (store.keyword_products == -1).all()


def test_store_with_keyword_links(tmp_path: Path) -> None:
    write_store(tmp_path)
    write_columns(tmp_path / "index", keyword_products=np.array([[2, 0], [1, -1]]), keyword_category=np.array([0, -1]))
    store = ItemStore.open(tmp_path)
    assert store.keyword_products.tolist() == [[2, 0], [1, -1]]
    assert store.keyword_category.tolist() == [0, -1]
    assert (ItemStore.open(tmp_path, linked=False).keyword_category == -1).all()


def test_arrays_are_mapped_read_only(tmp_path: Path) -> None:
    write_store(tmp_path)
    store = ItemStore.open(tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        store.price[0] = 1.0


def test_empty_store(tmp_path: Path) -> None:
    write_store(tmp_path, products=0, keywords=0)
    store = ItemStore.open(tmp_path)
    assert len(store) == 0
    assert store.product_ids.find(["id-0"]).tolist() == [-1]


def test_missing_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"store\.json: expected the item store of a build, found none"):
        ItemStore.open(tmp_path)


def test_missing_column(tmp_path: Path) -> None:
    write_store(tmp_path)
    (tmp_path / "store" / "price.npy").unlink()
    with pytest.raises(StoreError, match=r"price\.npy: expected a file of the build"):
        ItemStore.open(tmp_path)


def test_truncated_column(tmp_path: Path) -> None:
    write_store(tmp_path, products=100)
    path = tmp_path / "store" / "price.npy"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(StoreError, match=r"price\.npy: expected a NumPy array"):
        ItemStore.open(tmp_path)


def test_column_of_another_build(tmp_path: Path) -> None:
    write_store(tmp_path / "a")
    write_store(tmp_path / "b", products=5)
    (tmp_path / "b" / "store" / "popularity.npy").rename(tmp_path / "a" / "store" / "popularity.npy")
    with pytest.raises(StoreError, match="column popularity: expected 3 rows, got 5"):
        ItemStore.open(tmp_path / "a")


def test_column_of_another_type(tmp_path: Path) -> None:
    write_store(tmp_path)
    np.save(tmp_path / "store" / "price.npy", np.zeros(3))
    with pytest.raises(StoreError, match=r"price\.npy: expected float32 with 1 dimension\(s\), got float64"):
        ItemStore.open(tmp_path)


def test_other_format(tmp_path: Path) -> None:
    write_store(tmp_path)
    (tmp_path / "store" / "store.json").write_text(json.dumps({"format": 99}), encoding="utf-8")
    with pytest.raises(StoreError, match="expected store format 1, got 99"):
        ItemStore.open(tmp_path)


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=12), max_size=20))
def test_string_column_finds_what_it_holds(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("column")
    StringColumn.write(folder, "texts", texts)
    column = StringColumn.open(folder, "texts")
    assert list(column) == texts
    assert column.find(texts).tolist() == [texts.index(text) for text in texts]


def test_texts_with_equal_hashes_are_told_apart(tmp_path: Path) -> None:
    StringColumn.write(tmp_path, "texts", ["a", "b", "c"])
    column = StringColumn.open(tmp_path, "texts")
    colliding = StringColumn(column.blob, column.offsets, np.full(3, column.hashes[0]), np.arange(3))
    held = list(column)[int(column.order[0])]
    assert colliding.find([held]).tolist() == ["abc".index(held)]


def test_column_index_is_checked(tmp_path: Path) -> None:
    StringColumn.write(tmp_path, "texts", ["a"])
    column = StringColumn.open(tmp_path, "texts")
    assert column[-1] == "a"
    with pytest.raises(IndexError, match="row 1 of a column of 1"):
        column[1]


@given(lists=st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), max_size=10))
@settings(max_examples=30, deadline=None)
def test_ragged_round_trip(tmp_path_factory: pytest.TempPathFactory, lists: list[list[int]]) -> None:
    folder = tmp_path_factory.mktemp("ragged")
    Ragged.write(folder, "lists", Ragged.of(lists))
    column = Ragged.open(folder, "lists")
    assert [column.row(row).tolist() for row in range(len(column))] == lists


def test_columns_that_come_in_parts_are_those_that_come_at_once(tmp_path: Path) -> None:
    lists = [[1, 2], [], [3], [4, 5, 6]]
    parts = [Ragged.of(lists[:2]), Ragged.of([]), Ragged.of(lists[2:])]
    for name, column in (("whole", Ragged.of(lists)), ("parts", iter(parts)), ("joined", Ragged.joined(parts))):
        Ragged.write(tmp_path / name, "lists", column)
    texts = [f"text {number}" for number in range(AT_ONCE + 3)]
    StringColumn.write(tmp_path / "whole", "texts", texts)
    StringColumn.write(tmp_path / "parts", "texts", iter(texts))
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "parts" / file.name).read_bytes() == file.read_bytes(), file.name
        if file.name.startswith("lists"):
            assert (tmp_path / "joined" / file.name).read_bytes() == file.read_bytes(), file.name
    column = StringColumn.open(tmp_path / "parts", "texts")
    assert list(column) == texts
    assert column.find([texts[-1], texts[0], "none"]).tolist() == [len(texts) - 1, 0, -1]


@pytest.mark.parametrize("rows", [0, 3])
def test_a_created_column_is_filled_in_any_order(tmp_path: Path, rows: int) -> None:
    column = create_column(tmp_path, "vectors", (rows, 2))
    for row in reversed(range(rows)):
        column[row] = row
    read = load_array(tmp_path, "vectors", np.float16, 2)
    assert read.tolist() == [[row, row] for row in range(rows)]
