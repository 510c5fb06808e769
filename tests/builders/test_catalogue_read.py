import logging
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from endcap_builders.catalogue import CatalogueError, read_catalogue

PRODUCTS = pl.DataFrame(
    {
        "product_id": ["a", "b", "c"],
        "title": ["Oats", "Milk", "Honey"],
        "description": ["Rolled.", None, "Clear."],
        "brand": ["North", None, "Bee"],
        "category": ["Food > Oats", "Food>Milk", None],
        "price": [2.5, None, 4.0],
        "in_stock": [True, False, None],
    }
)
EVENTS = pl.DataFrame(
    {
        "user_id": ["u2", "u1", "u1"],
        "product_id": ["a", "b", "c"],
        "timestamp": [datetime(2026, 1, 2), datetime(2026, 1, 3), datetime(2026, 1, 1)],
        "type": ["view", "cart", "purchase"],
    }
)
QUERIES = pl.DataFrame({"query": ["milk", "oats"], "count": [2, 5]})
JUDGEMENTS = pl.DataFrame({"query": ["milk", "milk"], "product_id": ["b", "a"], "relevance": [3, 1]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tables = {"products": PRODUCTS, "events": EVENTS, "queries": QUERIES, "judgements": JUDGEMENTS}
    for name, table in tables.items():
        table.write_parquet(tmp_path / f"{name}.parquet")
    return tmp_path


def problems(folder: Path) -> tuple[str, ...]:
    with pytest.raises(CatalogueError) as error:
        read_catalogue(folder)
    return error.value.problems


def test_reads_every_table_in_its_final_types(folder: Path) -> None:
    catalogue = read_catalogue(folder)
    assert dict(catalogue.products.schema) == {
        **dict.fromkeys(["product_id", "title", "description", "brand", "category"], pl.String),
        "price": pl.Float32,
        "image": pl.String,
        "caption": pl.String,
        "in_stock": pl.Boolean,
        "identifiers": pl.String,
    }
    assert catalogue.products["category"].to_list() == ["Food > Oats", "Food > Milk", ""]
    assert catalogue.products["description"].to_list() == ["Rolled.", "", "Clear."]
    assert catalogue.products["price"].to_list() == [2.5, None, 4.0]
    assert catalogue.products["in_stock"].to_list() == [True, False, True]
    assert catalogue.events is not None
    assert catalogue.events.schema["timestamp"] == pl.Datetime("us", "UTC")
    assert catalogue.events["product_id"].to_list() == ["c", "b", "a"]
    assert catalogue.queries is not None
    assert catalogue.queries.rows() == [("oats", 5), ("milk", 2)]
    assert catalogue.judgements is not None
    assert catalogue.judgements.schema["relevance"] == pl.Float32


def test_optional_files_and_columns_may_be_absent(folder: Path) -> None:
    for name in ("events", "queries", "judgements"):
        (folder / f"{name}.parquet").unlink()
    PRODUCTS.select("product_id", "title").write_parquet(folder / "products.parquet")
    catalogue = read_catalogue(folder)
    assert (catalogue.events, catalogue.queries, catalogue.judgements) == (None, None, None)
    assert catalogue.products["brand"].to_list() == ["", "", ""]
    assert catalogue.products["price"].null_count() == 3
    assert catalogue.products["in_stock"].all()


def test_integer_ids_become_text_in_every_table(folder: Path) -> None:
    number = {"a": 1, "b": 2, "c": 3}
    for name, table in {"products": PRODUCTS, "events": EVENTS, "judgements": JUDGEMENTS}.items():
        numbers = pl.col("product_id").replace_strict(number, return_dtype=pl.Int32)
        table.with_columns(numbers).write_parquet(folder / f"{name}.parquet")
    catalogue = read_catalogue(folder)
    assert catalogue.products["product_id"].to_list() == ["1", "2", "3"]
    assert catalogue.events is not None
    assert catalogue.events.height == 3


def test_dates_and_zones_become_utc(folder: Path) -> None:
    EVENTS.with_columns(timestamp=pl.lit(date(2026, 5, 1))).write_parquet(folder / "events.parquet")
    events = read_catalogue(folder).events
    assert events is not None
    assert events["timestamp"][0] == datetime(2026, 5, 1, tzinfo=UTC)
    noon = (
        pl.lit(datetime(2026, 5, 1, 12)).dt.replace_time_zone("Europe/Berlin").cast(pl.Datetime("ns", "Europe/Berlin"))
    )
    EVENTS.with_columns(timestamp=noon).write_parquet(folder / "events.parquet")
    events = read_catalogue(folder).events
    assert events is not None
    assert events["timestamp"][0] == datetime(2026, 5, 1, 10, tzinfo=UTC)


def test_equal_queries_add_up_and_repeated_judgements_average(folder: Path) -> None:
    pl.concat([QUERIES, QUERIES]).write_parquet(folder / "queries.parquet")
    pl.concat([JUDGEMENTS, JUDGEMENTS.with_columns(relevance=pl.lit(2, pl.Int64))]).write_parquet(
        folder / "judgements.parquet"
    )
    catalogue = read_catalogue(folder)
    assert catalogue.queries is not None
    assert catalogue.queries.rows() == [("oats", 10), ("milk", 4)]
    assert catalogue.judgements is not None
    assert catalogue.judgements["relevance"].to_list() == [2.5, 1.5]


def test_unknown_columns_are_ignored_and_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    PRODUCTS.with_columns(color=pl.lit("red")).write_parquet(folder / "products.parquet")
    with caplog.at_level(logging.INFO):
        assert "color" not in read_catalogue(folder).products.columns
    assert "products.parquet: columns not used: color" in caplog.text


@pytest.mark.parametrize("table", ["events", "judgements"])
def test_rows_of_unknown_products_are_dropped_and_counted(
    folder: Path, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    frame = {"events": EVENTS, "judgements": JUDGEMENTS}[table]
    extra = frame.head(1).with_columns(product_id=pl.lit("gone"))
    pl.concat([frame, extra]).write_parquet(folder / f"{table}.parquet")
    catalogue = read_catalogue(folder)
    assert getattr(catalogue, table).height == frame.height
    assert f"{table}.parquet: dropped 1 of {frame.height + 1} rows" in caplog.text


def test_no_known_product_at_all_is_an_error(folder: Path) -> None:
    EVENTS.with_columns(product_id=pl.lit("gone")).write_parquet(folder / "events.parquet")
    (problem,) = problems(folder)
    assert problem.startswith(
        "events.parquet, column product_id, row 0: expected an id of products.parquet, got 'gone'"
    )


def test_digest_follows_the_bytes(folder: Path) -> None:
    before = read_catalogue(folder).digest
    assert read_catalogue(folder).digest == before
    QUERIES.head(1).write_parquet(folder / "queries.parquet")
    assert read_catalogue(folder).digest != before


DAMAGES = {
    "products.parquet, column title: expected in the file, got columns product_id": PRODUCTS.select("product_id"),
    "products.parquet, column title, row 1: expected text, got null": PRODUCTS.with_columns(
        title=pl.Series(["Oats", None, "Honey"])
    ),
    "products.parquet, column title, row 2: expected text, got '  '": PRODUCTS.with_columns(
        title=pl.Series(["Oats", "Milk", "  "])
    ),
    "products.parquet, column title: expected text, got Float64 in all rows": PRODUCTS.with_columns(title=pl.lit(1.5)),
    "products.parquet, column title, row 0: expected text, got null; give every product a title": PRODUCTS.with_columns(
        title=pl.lit(None)
    ),
    "products.parquet, column product_id, row 1: expected an id, got null": PRODUCTS.with_columns(
        product_id=pl.Series(["a", None, "c"])
    ),
    "products.parquet, column product_id, row 0: expected an id, got ''": PRODUCTS.with_columns(
        product_id=pl.Series(["", "b", "c"])
    ),
    "products.parquet, column product_id: expected text or whole numbers, got Float64": PRODUCTS.with_columns(
        product_id=pl.lit(1.0)
    ),
    "products.parquet, column product_id, row 2: expected an id of its own, got 'a' as in row 0": PRODUCTS.with_columns(
        product_id=pl.Series(["a", "b", "a"])
    ),
    "products.parquet: expected at least one row, got none; fill the file": PRODUCTS.clear(),
    "products.parquet, column price, row 1: expected a finite price of 0 or more, got -1.0": PRODUCTS.with_columns(
        price=pl.Series([1.0, -1.0, 2.0])
    ),
    "products.parquet, column price, row 2: expected a finite price of 0 or more, got nan": PRODUCTS.with_columns(
        price=pl.Series([1.0, None, float("nan")])
    ),
    "products.parquet, column price: expected a number, got String": PRODUCTS.with_columns(price=pl.lit("2.50")),
    "products.parquet, column category, row 0: expected a path of non-empty parts, got 'a > >": PRODUCTS.with_columns(
        category=pl.Series(["a > > b", "a", ""])
    ),
    "products.parquet, column category, row 1: expected a path of non-empty parts, got 'a >'": PRODUCTS.with_columns(
        category=pl.Series(["a", "a >", ""])
    ),
    "products.parquet, column in_stock: expected true or false, got String": PRODUCTS.with_columns(
        in_stock=pl.lit("yes")
    ),
    "products.parquet, column brand: expected text, got List(String)": PRODUCTS.with_columns(brand=pl.lit(["North"])),
    "events.parquet, column user_id: expected in the file": EVENTS.drop("user_id"),
    "events.parquet, column user_id, row 0: expected an id, got null": EVENTS.with_columns(
        user_id=pl.Series([None, "u", "u"])
    ),
    "events.parquet, column timestamp, row 2: expected a timestamp, got null": EVENTS.with_columns(
        timestamp=pl.Series([datetime(2026, 1, 1), datetime(2026, 1, 1), None])
    ),
    "events.parquet, column timestamp: expected a timestamp, got Int64": EVENTS.with_columns(timestamp=pl.lit(10**12)),
    "events.parquet, column type, row 1: expected one of view, cart, purchase, got 'click'": EVENTS.with_columns(
        type=pl.Series(["view", "click", "cart"])
    ),
    "queries.parquet, column query, row 0: expected text, got null": QUERIES.with_columns(
        query=pl.Series([None, "oats"])
    ),
    "queries.parquet, column count, row 1: expected a count of 1 or more, got 0": QUERIES.with_columns(
        count=pl.Series([3, 0])
    ),
    "queries.parquet, column count: expected a whole number, got Float64": QUERIES.with_columns(count=pl.lit(1.5)),
    "queries.parquet: expected at least one row, got none; fill the file or remove it": QUERIES.clear(),
    "judgements.parquet, column relevance: expected a number, got String": JUDGEMENTS.with_columns(
        relevance=pl.lit("good")
    ),
    "judgements.parquet, column relevance, row 1: expected a finite number, got inf": JUDGEMENTS.with_columns(
        relevance=pl.Series([1.0, float("inf")])
    ),
    "judgements.parquet, column relevance, row 0: expected a finite number, got null": JUDGEMENTS.with_columns(
        relevance=pl.Series([None, 1.0])
    ),
    "judgements.parquet, column relevance, row 0: expected at least two different grades": JUDGEMENTS.with_columns(
        relevance=pl.lit(3)
    ),
}


@pytest.mark.parametrize("expected", DAMAGES)
def test_damage_is_named_by_file_column_and_row(folder: Path, expected: str) -> None:
    DAMAGES[expected].write_parquet(folder / expected.split(",")[0].split(":")[0])
    (problem, *_) = problems(folder)
    assert problem.startswith(expected)


@pytest.mark.parametrize("file", ["products.parquet", "events.parquet", "queries.parquet", "judgements.parquet"])
@pytest.mark.parametrize("keep", [0, 11, 0.5, 0.99])
def test_truncated_files_are_named(folder: Path, file: str, keep: float) -> None:
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    (problem,) = problems(folder)
    assert problem.startswith(f"{file}: expected a readable Parquet file, got ")
    assert "write it again" in problem


def test_bytes_overwritten_in_the_middle_are_named(folder: Path) -> None:
    big = pl.DataFrame({"product_id": [str(n) for n in range(5000)], "title": [f"Oats {n * n}" for n in range(5000)]})
    big.write_parquet(folder / "products.parquet", compression="zstd")
    data = bytearray((folder / "products.parquet").read_bytes())
    data[200 : len(data) // 2] = bytes(len(data) // 2 - 200)
    (folder / "products.parquet").write_bytes(data)
    (problem,) = problems(folder)
    assert problem.startswith("products.parquet: expected a readable Parquet file")


def test_missing_products_and_missing_folder(folder: Path) -> None:
    (folder / "products.parquet").unlink()
    (problem,) = problems(folder)
    assert problem.startswith("products.parquet: expected in ")
    (problem,) = problems(folder / "nowhere")
    assert "expected a catalogue folder, got nothing there" in problem


def test_problems_of_all_files_are_collected_and_cut_at_ten(folder: Path) -> None:
    rows = 50
    pl.DataFrame(
        {
            "product_id": [None] * rows,
            "title": [""] * rows,
            "price": [-1.0] * rows,
            "category": [">"] * rows,
        }
    ).write_parquet(folder / "products.parquet")
    with pytest.raises(CatalogueError) as error:
        read_catalogue(folder)
    lines = str(error.value).splitlines()
    assert len(lines) == 11
    assert lines[2].endswith("(and 47 more rows like this)")
    assert lines[-1] == "... and 2 more"
