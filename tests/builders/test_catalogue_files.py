"""Catalogues as other tools write them: folders, partitions, types and names that are nearly right."""

import decimal
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from endcap_builders.catalogue import CatalogueError, catalogue_digest, read_catalogue
from endcap_builders.pipeline import Pipeline
from endcap_builders.steps.catalogue import STEP as CATALOGUE_STEP
from endcap_server.stages.contract import MAX_ID_BYTES

IDS = ["P1", "P2", "P3", "P4"]
DAY = datetime(2025, 1, 1)
PRODUCTS: dict[str, Any] = {"product_id": IDS, "title": ["Blue mug", "Red mug", "Green mug", "Cup"]}
EVENTS: dict[str, Any] = {
    "user_id": ["u1", "u2", "u1", "u2"],
    "product_id": IDS,
    "timestamp": pa.array([DAY] * 4, pa.timestamp("us")),
    "type": ["purchase", "view", "cart", "view"],
}
TABLES = {
    "products": PRODUCTS,
    "events": EVENTS,
    "queries": {"query": ["mug", "cup"], "count": [3, 1]},
    "judgements": {"query": ["mug", "mug"], "product_id": ["P1", "P4"], "relevance": [3, 1]},
}


def write(path: Path, columns: dict[str, Any], rows: slice = slice(None)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: values[rows] for name, values in columns.items()}), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "products.parquet", PRODUCTS)
    return tmp_path


def problems(folder: Path) -> tuple[str, ...]:
    with pytest.raises(CatalogueError) as error:
        read_catalogue(folder)
    return error.value.problems


@pytest.mark.parametrize("suffix", [".parquet", ""])
def test_every_table_may_be_a_folder(tmp_path: Path, suffix: str) -> None:
    for name, columns in TABLES.items():
        write(tmp_path / f"{name}{suffix}/part-00000-aa.snappy.parquet", columns, slice(0, 1))
        write(tmp_path / f"{name}{suffix}/part-00001-bb.snappy.parquet", columns, slice(1, None))
        (tmp_path / f"{name}{suffix}/_SUCCESS").touch()
        (tmp_path / f"{name}{suffix}/.part-00000-aa.snappy.parquet.crc").write_bytes(b"crc")
    catalogue = read_catalogue(tmp_path)
    assert catalogue.products["product_id"].to_list() == IDS
    assert catalogue.events is not None
    assert catalogue.events.height == 4
    assert catalogue.queries is not None
    assert catalogue.queries.rows() == [("mug", 3), ("cup", 1)]
    assert catalogue.judgements is not None
    assert catalogue.judgements.height == 2


def test_a_folder_reads_as_the_same_rows_in_one_file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("folders")
    write(other / "products.parquet" / "000000_0", PRODUCTS, slice(0, 3))
    write(other / "products.parquet" / "000001_0", PRODUCTS, slice(3, None))
    # A Spark job that had no rows for a file writes an empty one.
    write(other / "products.parquet" / "000002_0", PRODUCTS, slice(0, 0))
    assert read_catalogue(other).products.equals(read_catalogue(folder).products)


def test_parts_of_the_path_are_columns(folder: Path) -> None:
    rest = {name: values for name, values in EVENTS.items() if name not in ("type", "timestamp")}
    write(folder / "events/timestamp=2025-03-01 10%3A00%3A00/type=view/a.parquet", rest, slice(0, 2))
    write(folder / "events/timestamp=2025-03-02/type=cart/a.parquet", rest, slice(2, None))
    events = read_catalogue(folder).events
    assert events is not None
    assert sorted(events.select("product_id", "type", "timestamp").rows()) == [
        ("P1", "view", datetime(2025, 3, 1, 10, tzinfo=UTC)),
        ("P2", "view", datetime(2025, 3, 1, 10, tzinfo=UTC)),
        ("P3", "cart", datetime(2025, 3, 2, tzinfo=UTC)),
        ("P4", "cart", datetime(2025, 3, 2, tzinfo=UTC)),
    ]


def test_partitions_of_products_have_the_types_of_their_columns(tmp_path: Path) -> None:
    write(tmp_path / "products/in_stock=false/price=2.5/brand=A%2FB/a.parquet", PRODUCTS, slice(0, 2))
    write(
        tmp_path / "products/in_stock=true/price=3/brand=__HIVE_DEFAULT_PARTITION__/a.parquet", PRODUCTS, slice(2, None)
    )
    products = read_catalogue(tmp_path).products
    assert products["in_stock"].to_list() == [False, False, True, True]
    assert products["price"].to_list() == [2.5, 2.5, 3.0, 3.0]
    assert products["brand"].to_list() == ["A/B", "A/B", "", ""]


def test_a_bad_partition_value_is_named(folder: Path) -> None:
    rest = {name: values for name, values in EVENTS.items() if name != "timestamp"}
    write(folder / "events/timestamp=yesterday/a.parquet", rest)
    (problem,) = problems(folder)
    assert problem.startswith("events, column timestamp: expected a timestamp, got String in all rows")
    assert "'yesterday'" in problem


def test_a_row_of_a_folder_is_named_by_its_file(folder: Path) -> None:
    write(folder / "products.parquet.tmp", PRODUCTS)
    (folder / "products.parquet").unlink()
    (folder / "products.parquet.tmp").unlink()
    write(folder / "products/a.parquet", PRODUCTS)
    write(folder / "products/b.parquet", {"product_id": ["P8", "P9", "P2"], "title": ["Jug", " ", "Jar"]})
    assert problems(folder) == (
        "products/b.parquet, column title, row 1: expected text, got ' '; "
        "give every product a title, or leave the product out",
    )
    write(folder / "products/b.parquet", {"product_id": ["P8", "P2"], "title": ["Jug", "Jar"]})
    (problem,) = problems(folder)
    assert problem.startswith(
        "products/b.parquet, column product_id, row 1: expected an id of its own, got 'P2' as in row 1 of "
        "products/a.parquet"
    )


def test_files_of_a_folder_that_do_not_fit_each_other(folder: Path) -> None:
    (folder / "products.parquet").unlink()
    write(folder / "products/a.parquet", PRODUCTS)
    write(folder / "products/b.parquet", {"product_id": ["P8"], "name": ["Jug"]})
    (problem,) = problems(folder)
    assert problem.startswith("products/b.parquet, column title: expected in the file, got columns product_id")
    write(folder / "products/b.parquet", {"product_id": ["P8"], "title": [[1]]})
    (problem,) = problems(folder)
    assert problem.startswith("products, column title: expected one type in all files, got String and List(Int64)")
    (folder / "products/b.parquet").write_text("product_id,title\n", encoding="utf-8")
    (problem,) = problems(folder)
    assert problem.startswith("products/b.parquet: expected a readable Parquet file")
    assert "write it again as Parquet" in problem


def test_a_part_with_another_type_of_number_or_only_nulls_fits(folder: Path) -> None:
    (folder / "products.parquet").unlink()
    for part, price in enumerate(
        (pa.array([1], pa.int32()), pa.array([2.5], pa.float64()), pa.nulls(1), pa.array([3], pa.int64()))
    ):
        columns = {"product_id": [f"P{part}"], "title": ["Mug"], "price": price}
        write(folder / f"products/{part}.parquet", columns)
    assert read_catalogue(folder).products["price"].to_list() == [1.0, 2.5, None, 3.0]


def test_a_table_in_two_places_or_in_an_empty_folder(folder: Path) -> None:
    (folder / "events").mkdir()
    assert problems(folder) == ("events: expected Parquet files in this folder, got none; fill it or remove it",)
    write(folder / "events/a.parquet", EVENTS)
    write(folder / "events.parquet", EVENTS)
    assert problems(folder) == (
        "events.parquet: expected one place, got events.parquet and events; remove one of them",
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *(("Events.parquet", "events"), ("event.parquet", "events"), ("evnets.parquet", "events")),
        *(("events.csv", "events"), ("events.csv.gz", "events"), ("events-2025.parquet", "events")),
        *(("events.pq", "events"), ("events", "events"), ("EVENTS.PARQUET", "events")),
        *(("judgments.parquet", "judgements"), ("judgment.parquet", "judgements"), ("judgements.tsv", "judgements")),
        *(("query.parquet", "queries"), ("queries.jsonl", "queries"), ("querys.parquet", "queries")),
    ],
)
def test_names_that_are_nearly_right_are_refused(folder: Path, name: str, meant: str) -> None:
    write(folder / name, TABLES[meant])
    (problem,) = problems(folder)
    assert problem.startswith(f"{name}: expected {meant}.parquet for the {meant}, got a name that is not read")


def test_a_folder_of_a_nearly_right_name_and_products_too(folder: Path) -> None:
    write(folder / "Events.parquet/part-0.parquet", EVENTS)
    (problem,) = problems(folder)
    assert problem.startswith("Events.parquet: expected events.parquet")
    (folder / "products.parquet").rename(folder / "product.parquet")
    assert [problem.split(":")[0] for problem in problems(folder)] == ["product.parquet", "Events.parquet"]


@pytest.mark.parametrize("name", ["README.md", "labels.parquet", "product_images", "_events.parquet", "statistics.csv"])
def test_other_names_are_left_alone(folder: Path, name: str) -> None:
    if "." in name:
        (folder / name).write_text("x", encoding="utf-8")
    else:
        (folder / name).mkdir()
    assert read_catalogue(folder).warnings == ()


def test_a_near_miss_beside_the_table_is_a_warning(folder: Path) -> None:
    write(folder / "events.parquet", EVENTS)
    (folder / "events.csv").write_text("user_id\n", encoding="utf-8")
    (warning,) = read_catalogue(folder).warnings
    assert warning == "events.csv: not read, because events.parquet is there; remove what is not needed"


def test_digest_follows_files_of_folders_and_their_names(folder: Path) -> None:
    write(folder / "events/type=view/a.parquet", EVENTS)
    first = catalogue_digest(folder)
    (folder / "events/_SUCCESS").touch()
    assert catalogue_digest(folder) == first
    (folder / "events/type=view").rename(folder / "events/type=cart")
    assert catalogue_digest(folder) != first


@pytest.mark.parametrize(
    ("zone", "unit"), [("+05:30", "us"), ("-03:00", "ms"), ("Europe/Berlin", "ns"), ("UTC", "us"), ("+00:00", "ns")]
)
def test_every_zone_is_the_same_instant(folder: Path, zone: str, unit: str) -> None:
    times = pa.array([datetime(2025, 1, 1, 12, tzinfo=UTC)] * 4, pa.timestamp(unit, zone))
    write(folder / "events.parquet", {**EVENTS, "timestamp": times})
    events = read_catalogue(folder).events
    assert events is not None
    assert set(events["timestamp"]) == {datetime(2025, 1, 1, 12, tzinfo=UTC)}


SECONDS = 1735689600


@pytest.mark.parametrize(
    ("value", "unit", "meant"),
    [
        (SECONDS * 10**3, "s", "milliseconds stored as seconds? divided by 1,000 it is 2025-01-01 00:00:00"),
        (SECONDS * 10**6, "s", "microseconds stored as seconds? divided by 1,000,000 it is 2025-01-01 00:00:00"),
        (SECONDS * 10**6, "ms", "milliseconds stored as seconds? divided by 1,000 it is 2025-01-01 00:00:00"),
        (SECONDS, "ms", "seconds stored as milliseconds? times 1,000 it is 2025-01-01 00:00:00"),
        (SECONDS, "us", "seconds stored as microseconds? times 1,000,000 it is 2025-01-01 00:00:00"),
        (SECONDS, "ns", "seconds stored as nanoseconds? times 1,000,000,000 it is 2025-01-01 00:00:00"),
        (0, "us", "1970-01-01 00:00:00, which often stands for an unknown time"),
        (-62135596800, "s", "the year 1"),
        (4102444800, "s", "the year 2100"),
    ],
)
def test_times_in_another_unit_are_refused(folder: Path, value: int, unit: str, meant: str) -> None:
    right = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit] * SECONDS
    times = pa.array([right, value, right, right], pa.timestamp(unit))
    write(folder / "events.parquet", {**EVENTS, "timestamp": times})
    (problem,) = problems(folder)
    assert problem.startswith("events.parquet, column timestamp, row 1: expected a time of the years 1980 to 2099, got")
    assert meant in problem


@pytest.mark.parametrize(
    ("times", "advice"),
    [
        ([SECONDS] * 4, "these are seconds since 1970 (1735689600 is 2025-01-01 00:00:00 UTC)"),
        ([SECONDS * 1000] * 4, "these are milliseconds since 1970"),
        ([SECONDS * 1e6] * 4, "these are microseconds since 1970"),
        (["2025-01-01T00:00:00Z"] * 4, "parse the text into a Parquet timestamp"),
        ([True] * 4, "store it as a Parquet timestamp"),
    ],
)
def test_times_of_another_type_are_refused(folder: Path, times: list[Any], advice: str) -> None:
    write(folder / "events.parquet", {**EVENTS, "timestamp": times})
    (problem,) = problems(folder)
    assert problem.startswith("events.parquet, column timestamp: expected a timestamp, got ")
    assert advice in problem


def bad_text() -> pa.Array:
    raw = pa.array([b"Mug", b"Caf\xe9 cup", b"Jug", b"Jar"], pa.binary())
    return pa.StringArray.from_buffers(4, raw.buffers()[1], raw.buffers()[2])


ADVICE: dict[str, Callable[[], dict[str, Any]]] = {
    "products.parquet, column price: expected a number, got String in all rows (such as '15.00 USD'); store numbers "
    "alone, without currency or separators of thousands ('15.00' of '15.00 USD' as a number)": lambda: {
        **PRODUCTS,
        "price": ["15.00 USD"] * 4,
    },
    "products.parquet, column price: expected a number, got String in all rows (such as '$1,299.00')": lambda: {
        **PRODUCTS,
        "price": ["$1,299.00"] * 4,
    },
    "products.parquet, column product_id: expected text or whole numbers, got Float64 in all rows (such as 123.0); "
    "pandas turns whole numbers into floats": lambda: {**PRODUCTS, "product_id": [123.0, 124.0, None, 125.0]},
    "products.parquet, column title, row 1: expected text in UTF-8, got the bytes b'Caf\\xe9 cup'; "
    "decode the text": lambda: {**PRODUCTS, "title": bad_text()},
    f"products.parquet, column product_id, row 3: expected an id of at most {MAX_ID_BYTES} bytes, as requests may "
    "hold, got 258 bytes": lambda: {**PRODUCTS, "product_id": [*IDS[:3], "é" * 129]},
    "products.parquet, column title: expected in the file, got columns product_id, Title; rename 'Title' to title": (
        lambda: {"product_id": IDS, "Title": IDS}
    ),
    "products.parquet, column product_id: expected in the file, got columns productId, title; rename 'productId'": (
        lambda: {"productId": IDS, "title": IDS}
    ),
    "products.parquet, column in_stock: expected true or false, got Int64 in all rows (such as 1)": lambda: {
        **PRODUCTS,
        "in_stock": [1, 0, 1, 1],
    },
    "products.parquet, column title: expected text, got Struct": lambda: {
        **PRODUCTS,
        "title": [{"en": "Mug"}] * 4,
    },
}


@pytest.mark.parametrize("expected", ADVICE)
def test_advice_fits_the_fault(folder: Path, capfd: pytest.CaptureFixture[str], expected: str) -> None:
    write(folder / "products.parquet", ADVICE[expected]())
    (problem,) = problems(folder)
    assert problem.startswith(expected)
    assert "panicked" not in capfd.readouterr().err


def test_two_columns_of_one_name_are_named(folder: Path) -> None:
    table = pa.table([pa.array(IDS), pa.array(IDS), pa.array(IDS)], ["product_id", "title", "title"])
    pq.write_table(table, folder / "products.parquet")
    (problem,) = problems(folder)
    assert problem.startswith("products.parquet, column title: expected once, got 2 columns of this name")


@pytest.mark.parametrize("kind", [pa.decimal128(38, 2), pa.decimal256(60, 2)])
def test_decimal_prices_are_numbers(folder: Path, kind: pa.DataType) -> None:
    prices = pa.array([decimal.Decimal("15.25"), None, decimal.Decimal(3), decimal.Decimal(4)], kind)
    write(folder / "products.parquet", {**PRODUCTS, "price": prices})
    assert read_catalogue(folder).products["price"].to_list() == [15.25, None, 3.0, 4.0]


@pytest.mark.parametrize("kind", [pa.decimal128(38, 0), pa.decimal256(60, 0)])
def test_whole_decimals_are_ids_and_counts(folder: Path, kind: pa.DataType) -> None:
    ids = pa.array([decimal.Decimal(number) for number in (1, 2, 3, 10**30)], kind)
    write(folder / "products.parquet", {**PRODUCTS, "product_id": ids})
    write(folder / "queries.parquet", {"query": ["mug"], "count": pa.array([decimal.Decimal(7)], kind)})
    catalogue = read_catalogue(folder)
    assert catalogue.products["product_id"].to_list() == ["1", "2", "3", str(10**30)]
    assert catalogue.queries is not None
    assert catalogue.queries.rows() == [("mug", 7)]


def test_dictionaries_and_large_text_are_text(folder: Path) -> None:
    titles = pa.array(PRODUCTS["title"]).dictionary_encode()
    write(folder / "products.parquet", {"product_id": pa.array(IDS, pa.large_string()), "title": titles})
    assert read_catalogue(folder).products["title"].to_list() == PRODUCTS["title"]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda number: f"{number}.0", "end in '.0'"),
        (lambda number: f" {number}", "differ by white space only"),
        (lambda number: f"00{number}", "differ by leading zeros only"),
    ],
)
def test_ids_that_differ_between_files_say_how(folder: Path, change: Callable[[int], str], cause: str) -> None:
    write(folder / "products.parquet", {**PRODUCTS, "product_id": [11, 12, 13, 14]})
    write(folder / "events.parquet", {**EVENTS, "product_id": [change(number) for number in (11, 12, 13, 14)]})
    (problem,) = problems(folder)
    assert f"; 4 of the 4 unknown ids {cause}" in problem
    write(folder / "events.parquet", {**EVENTS, "product_id": ["11", change(12), change(12), "gone"]})
    (warning,) = read_catalogue(folder).warnings
    assert warning.startswith("events.parquet: dropped 3 of 4 rows: products.parquet has no such product")
    assert f"; 1 of the 2 unknown ids {cause}" in warning


SUSPICIOUS: dict[str, dict[str, Any]] = {
    "products, column title: 2 of 4 rows have HTML entities ('Salt &amp; pepper' in row 1, 'Caf&eacute;' in row 3)": {
        "title": ["<12in & >6in", "Salt &amp; pepper", "AT&T", "Caf&eacute;"]
    },
    "products, column title: 1 of 4 rows have HTML tags ('<b>Mug</b>' in row 0)": {
        "title": ["<b>Mug</b>", "Salt", "<12in & >6in", "Jar"]
    },
    "products, column title: 3 of 4 rows have a word for no value instead of a title ('nan' in row 0, 'NULL' in row 1, "
    "'None' in row 2)": {"title": ["nan", "NULL", "None", "Jar"]},
    "products, column in_stock: all 4 products are out of stock": {"in_stock": [False] * 4},
    "products, column product_id: 1 ids are written in several ways that differ by white space or case only ('p1' and "
    "'P1 ' and 'P 1')": {"product_id": ["p1", "P1 ", "P 1", "P2"]},
}


@pytest.mark.parametrize("expected", SUSPICIOUS)
def test_suspicious_catalogues_are_warned_about_once(
    folder: Path, caplog: pytest.LogCaptureFixture, expected: str
) -> None:
    write(folder / "products.parquet", {**PRODUCTS, **SUSPICIOUS[expected]})
    with caplog.at_level(logging.WARNING):
        (warning,) = read_catalogue(folder).warnings
    assert warning.startswith(expected)
    assert caplog.messages == [warning]


def test_shoppers_whose_ids_differ_by_case_are_warned_about(folder: Path) -> None:
    write(folder / "events.parquet", {**EVENTS, "user_id": ["u1", "U1", "u1", "u2"]})
    (warning,) = read_catalogue(folder).warnings
    assert warning.startswith("events, column user_id: 1 ids are written in several ways")


def test_warnings_are_kept_in_the_manifest(folder: Path) -> None:
    write(folder / "products.parquet", {**PRODUCTS, "title": ["nan", "Mug", "Jug", "Jar"]})
    manifest = Pipeline([CATALOGUE_STEP], folder / "build", folder).run()
    (warning,) = manifest["steps"]["catalogue"]["figures"]["warnings"]
    assert "a word for no value instead of a title" in warning
