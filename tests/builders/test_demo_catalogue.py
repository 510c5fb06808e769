from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from endcap_builders.catalogue import Catalogue, read_catalogue
from endcap_builders.catalogue.demo import DemoTruth, generate_demo, make_demo
from endcap_builders.catalogue.demo_shop.words import load_words

SEED = 7


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return generate_demo(tmp_path_factory.mktemp("demo") / "shop", seed=SEED)


@pytest.fixture(scope="module")
def truth() -> DemoTruth:
    return make_demo(SEED, 6000, 2000, 20_000, 600)[1]


def lines_of(frame: pl.DataFrame, truth: DemoTruth) -> pl.DataFrame:
    """Adds the noun of the product line to events or judgements."""
    nouns = [truth.words.lines[line].noun for line in truth.products.line]
    table = pl.DataFrame({"product_id": truth.products.ids, "noun": nouns})
    return frame.join(table, on="product_id", how="left", maintain_order="left")


def test_is_as_large_as_promised(demo: Catalogue) -> None:
    assert demo.products.height == 6000
    assert demo.products["category"].n_unique() >= 45
    assert demo.products["category"].str.split(" > ").list.first().n_unique() >= 8
    assert demo.products["brand"].n_unique() >= 50
    assert demo.products["price"].null_count() == 0
    assert demo.products["price"].is_between(0.5, 600).all()
    assert demo.events is not None
    assert demo.events["user_id"].n_unique() == 2000
    assert 60_000 <= demo.events.height <= 80_000
    assert set(demo.events["type"]) == {"view", "cart", "purchase"}
    assert demo.queries is not None
    assert demo.queries["count"].sum() == 20_000
    assert 3000 <= demo.queries.height <= 8000
    assert demo.judgements is not None
    assert demo.judgements["query"].n_unique() == 600
    assert set(demo.judgements["relevance"]) == {0.0, 1.0, 2.0, 3.0}


def test_folder_holds_the_catalogue_alone(demo: Catalogue) -> None:
    names = sorted(path.name for path in demo.folder.iterdir())
    assert names == ["events.parquet", "judgements.parquet", "products.parquet", "queries.parquet"]


def test_reads_like_a_shop(demo: Catalogue) -> None:
    titles = demo.products["title"]
    assert titles.n_unique() == titles.len()
    assert titles.str.contains(r"^\p{Lu}").all()
    assert not titles.str.contains(r"\d{6}|_|  |, ,").any()
    for title in titles:
        words = title.replace(",", "").lower().split()
        assert not any(a == b for a, b in pairwise(words)), title
    assert demo.products["description"].str.contains(r"[.!]$").all()
    assert not demo.products["description"].str.contains(r"_|\{|  |  ").any()
    assert demo.products["description"].n_unique() > 4000


def test_every_leaf_has_a_choice_of_brands(demo: Catalogue) -> None:
    sizes = demo.products.group_by("category").agg(pl.len(), brands=pl.col("brand").n_unique())
    assert sizes["len"].min() >= 30  # type: ignore[operator]
    assert sizes["brands"].min() >= 2  # type: ignore[operator]


def test_equal_seeds_make_equal_files_and_others_do_not(tmp_path: Path) -> None:
    numbers = {"products": 500, "shoppers": 40, "queries": 300, "judged": 20}
    first = generate_demo(tmp_path / "a", seed=1, **numbers)
    again = generate_demo(tmp_path / "b", seed=1, **numbers)
    other = generate_demo(tmp_path / "c", seed=2, **numbers)
    assert first.digest == again.digest != other.digest
    assert read_catalogue(tmp_path / "a").queries["count"].sum() == 300  # type: ignore[index]
    more_shoppers = generate_demo(tmp_path / "d", seed=1, **{**numbers, "shoppers": 80})
    assert more_shoppers.products.equals(first.products)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"products": 10}, "products: expected 375 to"),
        ({"shoppers": 0}, "shoppers: expected at least 1, got 0"),
        ({"queries": -1}, "queries: expected at least 1, got -1"),
    ],
)
def test_impossible_numbers(tmp_path: Path, numbers: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate_demo(tmp_path / "shop", **numbers)


@pytest.mark.parametrize(
    ("noun", "partner", "stranger"),
    [
        ("Taco Shells", "Taco Seasoning", "Dog Bed"),
        ("Dog Bed", "Puppy Training Pads", "Flour"),
        ("Flour", "Baking Powder", "Yoga Mat"),
        ("Yoga Mat", "Yoga Block", "Taco Shells"),
        ("Tent", "Sleeping Mat", "Diapers"),
    ],
)
def test_missions_show_in_what_is_bought_together(
    demo: Catalogue, truth: DemoTruth, noun: str, partner: str, stranger: str
) -> None:
    assert demo.events is not None
    events = lines_of(demo.events, truth)
    baskets = events.select("user_id", pl.col("timestamp").dt.date().alias("day"), "noun").unique()
    total = baskets.select("user_id", "day").n_unique()

    def lift(a: str, b: str) -> float:
        with_a = baskets.filter(pl.col("noun") == a).select("user_id", "day")
        with_b = baskets.filter(pl.col("noun") == b).select("user_id", "day")
        both = with_a.join(with_b, on=["user_id", "day"], how="semi").height
        return both * total / (with_a.height * with_b.height)

    assert lift(noun, partner) > 10
    assert lift(noun, stranger) < 3


def test_seasons_show_in_the_months(demo: Catalogue, truth: DemoTruth) -> None:
    assert demo.events is not None
    events = lines_of(demo.events, truth).with_columns(month=pl.col("timestamp").dt.month())

    def share(noun: str, months: set[int]) -> float:
        mine = events.filter(pl.col("noun") == noun)
        return mine.filter(pl.col("month").is_in(list(months))).height / mine.height

    assert share("Halloween Costume", {10}) > 0.6
    assert share("Christmas Ornaments", {11, 12}) > 0.6
    assert share("Charcoal Grill", {5, 6, 7, 8}) > 0.6


def test_shoppers_follow_their_tastes(demo: Catalogue, truth: DemoTruth) -> None:
    assert demo.events is not None
    row = {product_id: index for index, product_id in enumerate(truth.products.ids)}
    bought = demo.events.filter(pl.col("type") == "purchase")
    who = bought["user_id"].str.strip_prefix("shopper-").cast(pl.Int64).to_numpy()
    what = np.array([row[product_id] for product_id in bought["product_id"]])
    liking = truth.shoppers.brands[who, truth.products.brand[what]]
    assert liking.mean() > truth.shoppers.brands.mean() + 0.3
    level = np.corrcoef(truth.shoppers.level[who], truth.products.level[what])[0, 1]
    assert level > 0.25


def test_log_holds_every_kind_of_search(demo: Catalogue, truth: DemoTruth) -> None:
    assert demo.queries is not None
    assert set(demo.queries["query"]) == set(truth.intents)
    texts = set(demo.queries["query"])
    assert {"taco night", "rainy day baking", "new puppy", "milk", "dog food"} <= texts
    assert any(text.endswith("for taco night") for text in texts)
    known = {text for line in truth.words.lines for text in line.queries}
    brands = {brand.lower() for brand in truth.words.brands}
    assert sum(text in known for text in texts) > 300
    assert sum(any(text.startswith(f"{brand} ") for brand in brands) for text in texts) > 500


def test_grades_follow_the_truth(truth: DemoTruth) -> None:
    titles = np.array(truth.products.titles)
    oats = truth.grades("rolled oats")
    assert all("Rolled Oats" in title for title in titles[oats == 3])
    assert not any("Rolled Oats" in title for title in titles[oats < 2])
    organic = next(
        q for q, i in truth.intents.items() if q.startswith("organic ") and len(i.attributes) == 1 and i.brand < 0
    )
    grades = truth.grades(organic)
    assert all("Organic" in title for title in titles[grades == 3])
    assert not any("Organic" in title for title in titles[grades == 2])
    taco = truth.grades("taco night")
    assert any("Taco Shells" in title for title in titles[taco == 3])
    assert not any("Dog" in title for title in titles[taco > 0])


def test_judgements_are_the_truth_of_judged_queries(demo: Catalogue, truth: DemoTruth) -> None:
    assert demo.judgements is not None
    row = {product_id: index for index, product_id in enumerate(truth.products.ids)}
    for (query,), part in demo.judgements.group_by("query", maintain_order=True):
        grades = truth.grades(str(query))
        assert part["relevance"].to_list() == [grades[row[product_id]] for product_id in part["product_id"]]
        assert part.height == 12


def test_words_are_consistent() -> None:
    words = load_words()
    meanings: dict[str, set[str]] = {}
    for line in words.lines:
        assert line.price[0] < line.price[1]
        for text in line.queries:
            meanings.setdefault(text, set()).add(line.noun)
    for leaf in words.leaves:
        assert set(leaf.who) <= set(words.traits)
        for text in (*leaf.words, *leaf.parts):
            meanings.setdefault(text, set()).add(leaf.path)
    for mission in words.missions:
        assert set(mission.who) <= set(words.traits)
        for text in mission.queries:
            meanings.setdefault(text, set()).add(mission.name)
    assert {text: whose for text, whose in meanings.items() if len(whose) > 1} == {}
    assert len({line.noun for line in words.lines}) == len(words.lines)
