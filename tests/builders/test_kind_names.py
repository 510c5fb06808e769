"""Names of kinds: by what the titles of their products say, distinct, never empty."""

import pytest
from endcap_builders.merchandising.kind_names import kind_names, shopper_names


@pytest.mark.parametrize(
    ("label", "evidence", "name"),
    [
        ("Baked Bread, Buns, Rolls", {"bread": 0.6, "bun": 0.3}, "baked bread"),
        ("Ice Cream/Milk/Sherbets", {"cream": 0.8, "milk": 0.1}, "ice cream"),
        ("Candy, Packaged", {}, "packaged candy"),
        ("Candy, Packaged", {"candi": 0.9}, "candy"),
        ("Vegetables, Shelf Stable", {"bean": 0.4}, "shelf stable vegetables"),
        ("Peppers, All", {}, "peppers"),
        ("Vegetables, All Others", {}, "vegetables"),
        ("Fluid Milk Products", {"milk": 0.9}, "fluid milk"),
        ("Milk By Products", {}, "milk by products"),
        ("Cookies, Cones", {}, "cookies"),
        ("Bed & Bath", {"bath": 0.9}, "bed & bath"),
        ("Laptops", {}, "laptops"),
    ],
)
def test_a_name_is_the_part_of_the_label_that_titles_use(label: str, evidence: dict[str, float], name: str) -> None:
    assert shopper_names(label, evidence)[0] == name


def test_equal_names_belong_to_the_kind_that_sells_most_or_to_none() -> None:
    labels = {"Grocery > Soup": "Grocery Soup", "Deli > Soup": "Deli Soup"}
    products = [("Grocery > Soup", "Tomato soup", 90.0), ("Deli > Soup", "Pea soup", 10.0)]
    paths, titles, sales = zip(*products, strict=True)
    assert kind_names(labels, paths, titles, sales) == {"Grocery > Soup": "soup", "Deli > Soup": "deli soup"}
    assert kind_names(labels, paths, titles, [50.0, 50.0]) == {
        "Grocery > Soup": "grocery soup",
        "Deli > Soup": "deli soup",
    }


def test_kinds_without_sales_or_titles_keep_distinct_names() -> None:
    labels = {"A > Candy, Packaged": "Candy, Packaged", "B > Candy, Checklane": "Candy, Checklane"}
    names = kind_names(labels, list(labels), ["Candy bar", "Candy bar"], [0.0, 0.0])
    assert len(set(names.values())) == 2
    assert all(names.values())
