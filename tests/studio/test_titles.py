import numpy as np
import pytest
from endcap_studio.titles import TitleSearch

TITLES = [
    "Grey Wool Socks",
    "Wool Blanket",
    "GRÜNER Tee",
    "Straße nach Süden",
    "Two\nlines",
    "İstanbul mug",
    "Wool Socks",
]
BRANDS = ["Drizzle", "", "Ostara", "", "", "", "Acme"]
SEARCH = TitleSearch(TITLES, BRANDS, np.array([0.1, 0.9, 0, 0, 0, 0, 0.5]))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("wool", [1, 6, 0]),
        ("socks wo", [6, 0]),
        ("SOCKS drizz", [0]),
        ("grüner", [2]),
        ("strasse", [3]),
        ("lines two", [4]),
        ("mug", [5]),
        ("acme", [6]),
        ("nothing", []),
        ("  ", []),
        ("\n", []),
    ],
)
def test_words_are_found_anywhere_in_any_case(text: str, rows: list[int]) -> None:
    assert SEARCH.find(text, 10) == rows


def test_best_sellers_come_first_and_no_more_than_asked() -> None:
    assert SEARCH.find("wool", 1) == [1]


def test_many_titles_are_those_of_a_plain_search() -> None:
    rng = np.random.default_rng(3)
    words = np.array(["tea", "cup", "red", "mug", "oat", "éclair"])
    titles = [" ".join(words[rng.integers(0, len(words), 3)]) for _ in range(300)]
    search = TitleSearch(titles, [""] * 300, np.arange(300))
    for query in ("tea", "cup tea", "éclair o", "mug mug", "a"):
        plain = [row for row in range(300) if all(word in titles[row] for word in query.split())]
        assert search.find(query, 400) == plain[::-1], query
