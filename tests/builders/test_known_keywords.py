import numpy as np
import polars as pl
from endcap_builders.keywords import WordIndex, known_keywords

PRODUCTS = pl.DataFrame(
    {
        "title": ["Oak Table Lamp, 40 cm", "Brass Table Lamp with Shade", "Table Lamp", "Wool Rug", "Jute Rug, 2 m"],
        "brand": ["Acme", "Acme", "Borealis", "", "Acme"],
        "category": ["Home > Lamps", "Home > Lamps", "Home > Lamps", "Home > Rugs", "Home > Rugs"],
    }
)


def test_searched_and_derived_keywords() -> None:
    log = pl.DataFrame({"query": ["Table  LAMPS", "table lamps", "??", "rug|mat"], "count": [3, 4, 9, 1]})
    found = known_keywords(PRODUCTS, log, limit=100, least=2)
    counts = dict(zip(found.texts, found.counts.tolist(), strict=True))
    assert found.texts[:2] == ["table lamps", "rug mat"]
    assert counts["table lamps"] == 7
    assert counts["rug mat"] == 1
    assert "??" not in counts
    assert {"lamps", "rugs", "home", "acme", "acme lamps", "table lamp", "rug"} <= set(counts)
    assert "table" not in counts  # it never names what is sold
    assert "borealis" not in counts  # one product is too few
    assert counts["acme lamps"] == 0
    assert (np.diff(found.counts) <= 0).all()


def test_limit_keeps_the_most_searched() -> None:
    log = pl.DataFrame({"query": ["rug", "lamp", "table"], "count": [1, 5, 3]})
    assert known_keywords(PRODUCTS, log, limit=2, least=2).texts == ["lamp", "table"]


def test_no_log() -> None:
    found = known_keywords(PRODUCTS, None, limit=100, least=2)
    assert "table lamp" in found.texts
    assert found.counts.dtype == np.int64


def test_half_a_brand_and_words_that_name_nothing_are_no_keywords() -> None:
    products = pl.DataFrame(
        {
            "title": [
                "House Brand Sandwich Cookies, 1 dozen",
                "House Brand Sandwich Cookies",
                "Sandwich Cookies, regular",
            ],
            "brand": ["House Brand", "House Brand", ""],
            "category": ["Food > Cookies > Other"] * 3,
        }
    )
    texts = known_keywords(products, None, limit=100, least=2).texts
    assert {"sandwich cookies", "house brand", "house brand cookies", "cookies"} <= set(texts)
    assert not {"brand sandwich cookies", "brand", "other", "dozen", "regular"} & set(texts)


def test_word_index_wants_all_words() -> None:
    index = WordIndex(PRODUCTS)
    assert index.find("lamps for table").tolist() == [0, 1, 2]
    assert index.find("acme rug").tolist() == [4]
    assert index.find("brass rug").tolist() == []
    assert index.find("spaceship").tolist() == []
    assert index.find("the").tolist() == []
    assert index.find("").tolist() == []
