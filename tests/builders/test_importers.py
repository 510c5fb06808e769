from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from endcap_builders.catalogue import CatalogueError
from endcap_builders.importers import IMPORTERS, run_importer


def write(folder: Path, **tables: dict[str, list[object]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, columns in tables.items():
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")
    return folder


def graded_source(folder: Path) -> Path:
    return write(
        folder,
        products={"product_id": [10, 11, 12], "title": ["Angle bracket", "Deck paint", "Shower head"]},
        queries={
            "query_id": [0, 1, 2, 3],
            "query": ["l bracket", "rain shower", "deck over", "Deck  Over"],
            "split": ["train", "dev", "train", "dev"],
        },
        labels={
            "query_id": [0, 0, 1, 2, 3],
            "product_id": [10, 11, 12, 11, 11],
            "relevance": [3.0, 1.0, 2.33, 2.0, 2.5],
        },
    )


@pytest.mark.parametrize("name", ["homedepot", "crowdflower"])
def test_graded_sets_never_leak_queries_of_the_other_split(tmp_path: Path, name: str) -> None:
    catalogue = run_importer(name, graded_source(tmp_path / "source"), tmp_path / "shop")
    assert catalogue.products["product_id"].to_list() == ["10", "11", "12"]
    assert catalogue.queries is not None
    assert catalogue.judgements is not None
    # "deck over" is a train query, but stands in dev too, written differently.
    assert catalogue.queries.rows() == [("l bracket", 1)]
    assert catalogue.judgements.rows() == [("l bracket", "10", 3.0), ("l bracket", "11", 1.0)]


def test_graded_sets_can_give_the_dev_split(tmp_path: Path) -> None:
    source = graded_source(tmp_path / "source")
    labels = {"query_id": [0, 1, 1], "product_id": [10, 12, 10], "relevance": [3.0, 2.33, 1.0]}
    write(source, labels=labels)
    catalogue = run_importer("homedepot", source, tmp_path / "shop", split="dev")
    assert catalogue.judgements is not None
    assert catalogue.judgements.select("query", "product_id").rows() == [("rain shower", "12"), ("rain shower", "10")]


def test_icecat_keeps_part_numbers_and_no_queries(tmp_path: Path) -> None:
    source = write(
        tmp_path / "source",
        products={
            "product_id": ["3920564", "5"],
            "title": ["Xerox toner Black", "Cable &amp; plug"],
            "part_number": ["006R90321", None],
            "description": ["Toner", None],
            "brand": ["Xerox", "C2G"],
            "price": [49.95, None],
            "image": ["http://example.com/1.jpg", None],
        },
        queries={"query_id": ["q0"], "query": ["monitor"], "split": ["dev"]},
    )
    catalogue = run_importer("icecat", source, tmp_path / "shop")
    assert catalogue.products["identifiers"].to_list() == ["006R90321", ""]
    assert catalogue.products["title"].to_list() == ["Xerox toner Black", "Cable & plug"]
    assert catalogue.queries is None
    assert catalogue.judgements is None


def test_completejourney_titles_are_readable(tmp_path: Path) -> None:
    source = write(
        tmp_path / "source",
        products={
            "product_id": ["1", "2", "3", "4", "5", "6"],
            "department": ["GROCERY", "FROZEN GROCERY", "PRODUCE", "MEAT-PCKGD", "FUEL", "PASTRY"],
            "brand": ["Private", "National", "National", "National", "National", "Private"],
            "product_category": [
                *("FLUID MILK PRODUCTS", "FRZN VEGETABLE/VEG DSH", "TROPICAL FRUIT", "LUNCHMEAT", "COUPON/MISC ITEMS"),
                "BREAD",
            ],
            "product_type": [
                *("FLUID MILK WHITE ONLY", "FRZN CORN ON THE COB (12 CT &", "BANANAS", "POULTRY"),
                *("GASOLINE-REG UNLEADED", "BREAD:ITALIAN/FRENCH"),
            ],
            "package_size": ["1 GA", "6 CT", "40 LB", "5 OZ", None, None],
        },
        transactions={
            "household_id": ["7", "7", "8", "8"],
            "product_id": ["1", "3", "1", "5"],
            "quantity": [1.0, 2.0, 2.0, 9.0],
            "sales_value": [3.0, 1.5, 5.0, 20.0],
            "transaction_timestamp": [datetime(2017, 1, day, 12) for day in (1, 2, 3, 4)],
        },
    )
    catalogue = run_importer("completejourney", source, tmp_path / "shop")
    assert catalogue.products["title"].to_list() == [
        "Store Brand Fluid Milk White, 1 gal",
        "Frozen Corn On the Cob, 6 ct",
        "Bananas",
        "Poultry, 5 oz",
        "Store Brand Italian & French Bread",
    ]
    assert (
        catalogue.products["category"][1]
        == "Frozen Grocery > Frozen Vegetable & Vegetable DSH > Frozen Corn On the Cob"
    )
    assert catalogue.products["brand"].to_list() == ["Store Brand", "", "", "", "Store Brand"]
    assert catalogue.products["price"].to_list()[:3] == [2.75, None, 0.75]
    assert catalogue.events is not None
    # Fuel was left out, with its purchases.
    assert catalogue.events["product_id"].to_list() == ["1", "3", "1"]
    assert catalogue.events["timestamp"][0] == datetime(2017, 1, 1, 12, tzinfo=UTC)


def test_instacart_orders_keep_their_distances(tmp_path: Path) -> None:
    source = write(
        tmp_path / "source",
        products={
            "product_id": [1, 2, 3],
            "product_name": ["Whole Milk", "Bananas", "Gift Card"],
            "aisle": ["milk", "fresh fruits", "missing"],
            "department": ["dairy eggs", "produce", "missing"],
        },
        baskets={"order_id": [5, 5, 9], "product_id": [1, 2, 2], "add_to_cart_order": [2, 1, 1]},
        user_histories={
            "order_id": [70, 70, 71, 72],
            "product_id": [1, 2, 1, 2],
            "add_to_cart_order": [1, 2, 1, 1],
            "user_id": [4, 4, 4, 4],
            "order_number": [1, 1, 2, 3],
            "order_dow": [2, 2, 4, 0],
            "order_hour_of_day": [8, 8, 17, 23],
            "days_since_prior_order": [None, None, 9.0, 3.0],
        },
    )
    catalogue = run_importer("instacart", source, tmp_path / "shop")
    assert catalogue.products["category"].to_list() == ["Dairy & Eggs > Milk", "Produce > Fresh Fruits", ""]
    assert catalogue.events is not None
    mine = catalogue.events.filter(pl.col("user_id") == "user-4")
    # 2017-06-24 is the last Saturday (day 0) before the end; the others are 3 and 12 days earlier, a minute an item.
    assert [str(time)[:16] for time in mine["timestamp"]] == [
        *("2017-06-12 08:01", "2017-06-12 08:02", "2017-06-21 17:01", "2017-06-24 23:01"),
    ]
    assert mine["product_id"].to_list() == ["1", "2", "1", "2"]
    basket = catalogue.events.filter(pl.col("user_id") == "basket-5")
    assert basket["product_id"].to_list() == ["2", "1"]
    assert set(catalogue.events["type"]) == {"purchase"}


def esci_source(folder: Path) -> Path:
    return write(
        folder,
        shopping_queries_dataset_products={
            "product_id": ["B1", "B2", "B3", "B1"],
            "product_title": ["Wireless mouse", "Mouse pad", None, "Ratón"],
            "product_description": ["<p>Quiet &amp; small</p>", None, "x", None],
            "product_bullet_point": ["Two\nbuttons", "Soft", None, None],
            "product_brand": ["Acme", None, None, "Acme"],
            "product_color": ["Black", None, None, None],
            "product_locale": ["us", "us", "us", "es"],
        },
        shopping_queries_dataset_examples={
            "example_id": [0, 1, 2, 3, 4],
            "query": ["mouse", "mouse", "pad", "mouse", "ratón"],
            "query_id": [0, 0, 1, 0, 2],
            "product_id": ["B1", "B2", "B2", "B3", "B1"],
            "product_locale": ["us", "us", "us", "us", "es"],
            "esci_label": ["E", "C", "E", "I", "S"],
            "small_version": [1, 1, 0, 1, 1],
            "large_version": [1, 1, 1, 1, 1],
            "split": ["train", "train", "test", "train", "train"],
        },
    )


def test_esci_takes_one_locale_and_split(tmp_path: Path) -> None:
    catalogue = run_importer("esci", esci_source(tmp_path / "source"), tmp_path / "shop", locale="us")
    assert catalogue.products.select("product_id", "title", "description", "brand").rows() == [
        ("B1", "Wireless mouse", "Quiet & small Two buttons", "Acme"),
        ("B2", "Mouse pad", "Soft", ""),
    ]
    assert catalogue.queries is not None
    assert catalogue.queries.rows() == [("mouse", 1)]
    assert catalogue.judgements is not None
    assert catalogue.judgements.rows() == [("mouse", "B1", 3.0), ("mouse", "B2", 1.0)]


def test_wands_reads_tab_separated_text(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "product.csv").write_text(
        "product_id\tproduct_name\tproduct_class\tcategory hierarchy\tproduct_description\tproduct_features\t"
        "rating_count\taverage_rating\treview_count\n"
        '0\tsolid wood bed\tBeds\tFurniture / Bedroom / Beds\t"a ""good"" bed\nfor two"\t'
        "color : oak|size : queen\t15.0\t4.5\t15.0\n"
        "1\tclock\tClocks|Decor\t\t\t\t\t\t\n",
        encoding="utf-8",
    )
    (source / "query.csv").write_text("query_id\tquery\tquery_class\n0\twooden bed\tBeds\n", encoding="utf-8")
    (source / "label.csv").write_text(
        "id\tquery_id\tproduct_id\tlabel\n0\t0\t0\tExact\n1\t0\t1\tIrrelevant\n", encoding="utf-8"
    )
    catalogue = run_importer("wands", source, tmp_path / "shop")
    assert catalogue.products.select("product_id", "title", "description", "category").rows() == [
        ("0", "solid wood bed", 'a "good" bed for two color: oak; size: queen', "Furniture > Bedroom > Beds"),
        ("1", "clock", "", "Clocks"),
    ]
    assert catalogue.judgements is not None
    assert catalogue.judgements.rows() == [("wooden bed", "0", 2.0), ("wooden bed", "1", 0.0)]


def test_movielens_takes_good_ratings_and_tags_of_before(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write(
        source,
        movies={
            "movieId": [1, 2],
            "title": ["Toy Story (1995)", "Nothing"],
            "genres": ["Adventure|Comedy", "(no genres listed)"],
        },
        ratings={
            "userId": [7, 7],
            "movieId": [1, 2],
            "rating": [4.0, 3.5],
            "timestamp": [1_000_000_000, 1_000_000_001],
        },
        tags={"userId": [7, 7], "movieId": [1, 1], "tag": ["pixar", "late"], "timestamp": [1, 1_400_000_000]},
    )
    catalogue = run_importer("movielens", source, tmp_path / "shop", until="2010-01-01")
    assert catalogue.products.select("title", "description", "category").rows() == [
        ("Toy Story (1995)", "Adventure, Comedy. 1990s. pixar", "Adventure"),
        ("Nothing", "", ""),
    ]
    assert catalogue.events is not None
    assert catalogue.events.select("user_id", "product_id", "type").rows() == [("7", "1", "purchase")]
    with pytest.raises(CatalogueError, match="option until: expected a time such as 2015-01-01, got 'soon'"):
        run_importer("movielens", source, tmp_path / "other", until="soon")


MARKED = "Caf&eacute; <b>mug</b>, <12in &amp; >6in"


@pytest.mark.parametrize("name", ["homedepot", "instacart", "esci", "wands"])
def test_every_importer_makes_plain_titles(tmp_path: Path, name: str) -> None:
    source = graded_source(tmp_path / "source")
    write(source, products={"product_id": [10, 11, 12], "title": [MARKED, "<br/>", "Pad"]})
    if name == "instacart":
        write(
            source,
            products={"product_id": [10], "product_name": [MARKED], "aisle": ["mugs"], "department": ["home"]},
            baskets={"order_id": [5], "product_id": [10], "add_to_cart_order": [1]},
            user_histories={
                **{field: [1] for field in ("order_id", "add_to_cart_order", "user_id", "order_number", "order_dow")},
                "product_id": [10],
                "order_hour_of_day": [8],
                "days_since_prior_order": [1.0],
            },
        )
    elif name == "esci":
        esci_source(source)
        write(
            source,
            shopping_queries_dataset_products={
                "product_id": ["B1", "B2"],
                "product_title": [MARKED, "Pad"],
                "product_locale": ["us", "us"],
            },
        )
    elif name == "wands":
        (source / "product.csv").write_text(f"product_id\tproduct_name\n0\t{MARKED}\n1\tPad\n", encoding="utf-8")
        (source / "query.csv").write_text("query_id\tquery\n0\tmug\n", encoding="utf-8")
        (source / "label.csv").write_text(
            "query_id\tproduct_id\tlabel\n0\t0\tExact\n0\t1\tIrrelevant\n", encoding="utf-8"
        )
    else:
        write(source, labels={"query_id": [0, 0], "product_id": [10, 12], "relevance": [3.0, 1.0]})
    titles = run_importer(name, source, tmp_path / "shop").products["title"]
    assert titles[0] == "Café mug, <12in & >6in"
    assert "" not in titles


@pytest.mark.parametrize("name", IMPORTERS)
def test_a_source_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CatalogueError, match=r"expected in .*, got no such file"):
        run_importer(name, tmp_path, tmp_path / "shop")
    assert not (tmp_path / "shop").exists()


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    source = graded_source(tmp_path / "source")
    write(source, labels={"query": [1], "product_id": [1]})
    with pytest.raises(
        CatalogueError, match=r"labels\.parquet, column query_id: expected in the file, got columns query"
    ):
        run_importer("homedepot", source, tmp_path / "shop")


def test_a_truncated_source_is_named(tmp_path: Path) -> None:
    source = graded_source(tmp_path / "source")
    (source / "queries.parquet").write_bytes((source / "queries.parquet").read_bytes()[:-30])
    with pytest.raises(CatalogueError, match=r"queries\.parquet: expected a readable file"):
        run_importer("crowdflower", source, tmp_path / "shop")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("amazon", {}, "importer: expected one of homedepot"),
        ("instacart", {"split": "train"}, r"option split: expected one of \(none\) for instacart"),
        ("homedepot", {"split": "test"}, "option split: expected one of train, dev, got 'test'"),
        ("esci", {"locale": "fr"}, "option locale: expected one of us, es, jp, got 'fr'"),
    ],
)
def test_unknown_names_and_options(tmp_path: Path, name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        run_importer(name, tmp_path, tmp_path / "shop", **options)
