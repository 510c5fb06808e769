from endcap_builders.words import caption_tokens, content_stems, phrases
from endcap_server.shop.columns import Ragged


def lists_of(column: Ragged) -> list[list[int]]:
    return [column.row(row).tolist() for row in range(len(column))]


def test_content_stems_leave_out_stop_words() -> None:
    assert content_stems("The Lamps for your Desk") == ["lamp", "desk"]


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
    vocabulary, column = caption_tokens(titles, descriptions, least=2, most=2, vocabulary=100, per_product=10)
    assert vocabulary == ["oak tabl", "solid", "solid wood", "tabl", "wood"]
    assert lists_of(column) == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [], []]


def test_caption_tokens_prefer_titles_and_keep_the_sizes() -> None:
    titles, descriptions = ["Oak Table"] * 3, ["solid wood and brass"] * 3
    vocabulary, column = caption_tokens(titles, descriptions, least=1, most=3, vocabulary=100, per_product=3)
    assert [vocabulary[row] for row in column.row(0)] == ["oak", "oak tabl", "tabl"]
    vocabulary, column = caption_tokens(titles, descriptions, least=1, most=3, vocabulary=2, per_product=3)
    assert len(vocabulary) == 2
    assert all(max(row, default=0) < 2 for row in lists_of(column))
