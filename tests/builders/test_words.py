import pytest
from endcap_builders.words import caption_tokens, phrases, stem, words


def test_words() -> None:
    assert words("Chef's Knife, 20 cm (T-Shirt)") == ["chef's", "knife", "20", "cm", "t-shirt"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("lamps", "lamp"),
        ("berries", "berry"),
        ("boxes", "box"),
        ("brushes", "brush"),
        ("glass", "glass"),
        ("cactus", "cactus"),
        ("tennis", "tennis"),
        ("gas", "gas"),
        ("tea", "tea"),
    ],
)
def test_stem(word: str, expected: str) -> None:
    assert stem(word) == expected


def test_phrases_end_where_parts_end() -> None:
    found = dict(phrases("Cast Iron Skillet with Glass Lid, 24 cm", 3))
    assert found["cast iron skillet"]
    assert found["iron skillet"]
    assert found["glass lid"]
    assert not found["cast iron"]
    assert "skillet with glass" not in found
    assert not any("24" in phrase for phrase in found)


def test_caption_tokens_hold_the_frequency_limits() -> None:
    titles = ["Oak Table", "Oak Tables", "Oak Chair", "Rug"]
    descriptions = ["Solid wood.", "Solid wood.", "", "wool"]
    vocabulary, lists = caption_tokens(titles, descriptions, least=2, most=2, vocabulary=100, per_product=10)
    assert vocabulary == ["oak table", "solid", "solid wood", "table", "wood"]
    assert lists == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [], []]


def test_caption_tokens_prefer_titles_and_keep_the_sizes() -> None:
    titles, descriptions = ["Oak Table"] * 3, ["solid wood and brass"] * 3
    vocabulary, lists = caption_tokens(titles, descriptions, least=1, most=3, vocabulary=100, per_product=3)
    assert [vocabulary[row] for row in lists[0]] == ["oak", "oak table", "table"]
    vocabulary, lists = caption_tokens(titles, descriptions, least=1, most=3, vocabulary=2, per_product=3)
    assert len(vocabulary) == 2
    assert all(max(row, default=0) < 2 for row in lists)
