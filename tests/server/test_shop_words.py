"""Words and stems: which texts name the same thing."""

import pytest
from endcap_server.shop.words import distinct_things, specific_first, stem, stems, words


def test_words_keep_what_stands_within_them():
    assert words("Chef's Knife, T-Shirt 2.5 L") == ["chef's", "knife", "t-shirt", "2.5", "l"]
    assert words("ＴＡＣＯ　Kit") == ["taco", "kit"]


@pytest.mark.parametrize(("one", "two"), [("Taco Shells", "taco shell"), ("berries", "Berry"), ("boxes", "box")])
def test_number_and_case_do_not_count(one, two):
    assert stems(one) == stems(two)


def test_words_of_other_scripts_are_kept():
    assert stem("牛奶") == "牛奶"


def test_distinct_things_drop_plurals_and_what_holds_another():
    texts = ["tacos", "taco", "taco shells", "salsa", "hot salsa", "rice"]
    assert distinct_things(texts) == ["tacos", "salsa", "rice"]
    assert distinct_things(["Rice", "beans"], taken=["brown rice"]) == ["beans"]


def test_general_names_come_after_what_narrows_them():
    assert specific_first(["milk", "oat milk", "whole milk", "eggs"]) == ["oat milk", "whole milk", "eggs", "milk"]
    assert specific_first(["milk", "oat milk"]) == ["milk", "oat milk"]
