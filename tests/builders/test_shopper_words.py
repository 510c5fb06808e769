"""Category codes become words by what the catalogue itself says, and by nothing else."""

import pytest
from endcap_builders.catalogue.abbreviations import cut_length
from endcap_builders.catalogue.shopper_words import audit_table, shopper_words
from endcap_server.shop.prompts import label_name, plain_words

GROCER = [
    "GROCERY > FRZN MEAT/MEAT DINNERS > FRZN SKILLET DNRS",
    "GROCERY > FRZN VEGETABLE/VEG DSH > FRZN BAGGED VEGETABLES",
    "GROCERY > FRZN VEGETABLE/VEG DSH > VEGETABLE SIDE DISHES",
    "GROCERY > FROZEN PIZZA > PIZZA/ECONOMY",
    "GROCERY > FROZEN PIZZA > PIZZA/PREMIUM",
    "GROCERY > ICE CREAM/MILK/SHERBTS > PREMIUM",
    "GROCERY > PNT BTR/JELLY/JAMS > PEANUT BUTTER",
    "GROCERY > PNT BTR/JELLY/JAMS > BUTTER, BITTER PINTO",
    "GROCERY > PASTA SAUCE > PREMIUM SAUCE",
    "GROCERY > PASTA SAUCE > ECONOMY SAUCE",
    "GROCERY > DINNERS > PREMIUM ENTREES",
    "GROCERY > DINNERS > ECONOMY ENTREES",
    "GROCERY > CRACKERS > SOUP CRACKERS SALTINE/OYSTER",
    "GROCERY > EGGS > EGGS - LARGE",
    "GROCERY > EGGS > EGGS - SMALL",
    "PRODUCE > POTATOES > POTATOES RUSSET (BULK&BAG)",
    "BAKERY > BREAD > BREAD:ITALIAN/FRENCH",
    "PETS > CATFD > DRY CAT FOOD",
    "GROCERY > DINNERS > SKILLET DINNERS",
    "GROCERY > SOFT DRINKS > SFT DRNK W/CAFFEINE",
    "GROCERY > YOGURT > YOGURT NOT MULTI-PACKS",
    "GROCERY > SOUP > MISC",
]


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("GROCERY > FRZN MEAT/MEAT DINNERS", "Frozen Meat & Meat Dinners"),
        ("GROCERY > FRZN MEAT/MEAT DINNERS > FRZN SKILLET DNRS", "Frozen Skillet Dinners"),
        ("GROCERY > FRZN VEGETABLE/VEG DSH", "Frozen Vegetable & Vegetable Dishes"),
        ("GROCERY > PNT BTR/JELLY/JAMS", "Peanut Butter, Jelly & Jams"),
        ("GROCERY > FROZEN PIZZA > PIZZA/ECONOMY", "Economy Pizza"),
        ("GROCERY > ICE CREAM/MILK/SHERBTS > PREMIUM", "Premium Ice Cream"),
        ("GROCERY > CRACKERS > SOUP CRACKERS SALTINE/OYSTER", "Soup Crackers Saltine & Oyster"),
        ("GROCERY > EGGS > EGGS - LARGE", "Large Eggs"),
        ("PRODUCE > POTATOES > POTATOES RUSSET (BULK&BAG)", "Russet Potatoes"),
        ("BAKERY > BREAD > BREAD:ITALIAN/FRENCH", "Italian & French Bread"),
        ("PETS > CATFD", "Cat Food"),
        ("GROCERY > SOFT DRINKS > SFT DRNK W/CAFFEINE", "Soft Drinks with Caffeine"),
        ("GROCERY > YOGURT > YOGURT NOT MULTI-PACKS", "Yogurt"),
        ("GROCERY > SOUP > MISC", "Soup"),
    ],
)
def test_codes_are_read(path: str, label: str) -> None:
    assert shopper_words(GROCER)[path].text == label


@pytest.mark.parametrize(
    "path",
    [
        *("Dairy & Eggs > Milk", "Dry Goods & Pasta > Grains Rice Dried Goods", "Electronics > TV", "Home > DVD & CDs"),
        *(
            "Food > Canned Goods",
            "Tools > Cans",
            "Drinks > Cane Sugar Soda",
            "Möbel > Stühle",
            "家電 > テレビ",
            "Home > Lunch Boxes",
        ),
    ],
)
def test_words_stay_as_they_are(path: str) -> None:
    titles = {path: ["Goodness bar", "Canister of canned candy", "Lunchmeat", "Goods", "Television", "Teak table"]}
    label = shopper_words([path, "Food > Canned Candy", "Food > Lunchmeat"], titles)[path]
    assert label.text == path.rpartition(" > ")[2]
    assert label.spellings == ()


def test_titles_and_searches_are_evidence() -> None:
    path = "Kitchen > Mxg Bwls"
    assert shopper_words([path])[path].text == "Mxg Bwls"
    found = shopper_words([path], {path: ["Steel mixing bowl", "Mixing bowls, set of 3"]})[path]
    assert found.text == "Mixing Bowls"
    assert {(one.word, one.spelled) for one in found.spellings} == {("mxg", "mixing"), ("bwls", "bowls")}
    assert shopper_words([path], searches={"mixing bowls": 40})[path].text == "Mixing Bowls"
    # What shoppers search for is their own word, whatever it may be short for.
    assert shopper_words([path], {path: ["Mixing bowls"]}, {"mxg bwls": 5})[path].text == "Mxg Bwls"


def test_the_category_decides_between_words_of_the_same_consonants() -> None:
    paths = ["A > BTR", "B > BTR", "C > BITTER BUTTER", "C > SALT"]
    labels = shopper_words(paths, {"A > BTR": ["Salted butter"] * 3, "B > BTR": ["Bitter lemon"] * 3})
    assert labels["A > BTR"].text.endswith("Butter")
    assert labels["B > BTR"].text.endswith("Bitter")


def test_two_letters_need_the_same_neighbour_elsewhere() -> None:
    paths = ["DRUG GM > TOYS > GAMES", "DRUG GM > TOYS > DOLLS", "FOOD > DRY BN/RICE", "FOOD > DRY BEANS"]
    labels = shopper_words(paths)
    assert labels["DRUG GM"].text == "Drug"
    assert labels["FOOD > DRY BN/RICE"].text == "Dry Beans & Rice"


def test_equal_leaves_of_other_parents_stay_apart() -> None:
    paths = ["Men > Shirts", "Women > Shirts", "Home > Lamps", "Soup > Other", "Fruit > Other", "Fruit"]
    labels = shopper_words(paths)
    assert [labels[path].text for path in paths] == ["Men Shirts", "Women Shirts", "Lamps", "Soup", "Fruit 2", "Fruit"]


def test_the_category_with_most_products_keeps_the_label() -> None:
    labels = shopper_words(["Food > Ham"] * 8 + ["Pets > Ham"] * 3)
    assert (labels["Food > Ham"].text, labels["Pets > Ham"].text) == ("Ham", "Pets Ham")


def test_details_tell_categories_of_one_shelf_apart() -> None:
    paths = [
        "DRINKS > COLA > COLA 6PK CAN",
        "DRINKS > COLA > COLA 12PK CAN",
        "CANDY > BARS (SINGLE)",
        "CANDY > BARS (MULTI)",
    ]
    assert [shopper_words(paths)[path].text for path in paths] == [
        *("Cola 6PK Can", "Cola 12PK Can", "Bars Single", "Bars Multi"),
    ]


def test_a_name_that_is_cut_off_is_completed_or_loses_its_end() -> None:
    names = ["CHOCOLATE CREAM COOKIE WAFERS (ALL", "FROZEN BREADED PREPARED CHICKEN", "FROZEN GARLIC BREAD AND STICKS"]
    names += ["CANDY", "CHICKEN WINGS", "ICE"]
    names = [name[:28] for name in names]
    assert cut_length(names) == 28
    labels = shopper_words([f"FOOD > {name}" for name in names])
    assert [labels[f"FOOD > {name}"].text for name in names[:3]] == [
        *("Chocolate Cream Cookie", "Frozen Breaded Prepared Chicken", "Frozen Garlic Bread"),
    ]


def test_labels_are_distinct_and_can_stand_in_prompts() -> None:
    labels = shopper_words(GROCER)
    texts = [labels[path].text for path in GROCER]
    assert len(set(texts)) == len(texts)
    assert all(plain_words(label_name(text)) for text in texts)


def test_the_audit_table_says_why() -> None:
    table = audit_table(shopper_words(GROCER).values())
    (row,) = table.filter(table["path"] == "GROCERY > FRZN MEAT/MEAT DINNERS > FRZN SKILLET DNRS").rows(named=True)
    assert row["label"] == "Frozen Skillet Dinners"
    assert "frzn = frozen (same consonants" in row["spelled"]


def test_nothing_comes_of_nothing() -> None:
    assert shopper_words([]) == {}
    assert shopper_words(["", ""]) == {}
    assert shopper_words(["MISC"])["MISC"].text == "MISC"
