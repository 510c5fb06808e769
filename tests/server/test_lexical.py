from pathlib import Path

import numpy as np
import pytest
from endcap_server.engines import lexical
from endcap_server.engines.allowed_rows import AllowedRows
from endcap_server.engines.encoder_runtime import EngineLoadError
from endcap_server.engines.lexical import Boosts, LexicalIndex, ProductWords, codes, write_lexical

PRODUCTS = (
    ProductWords("100", "HP Pavilion dv7-1211ea Notebook 17 inch", "HP", description="Laptop with a wireless mouse"),
    ProductWords("101", "Xerox toner cartridge black", "Xerox", identifiers="006R90321|4053162123456"),
    ProductWords("102", "Brother TN-2120 toner 5000 pages", "Brother", "printing > toner"),
    ProductWords("103", "Wireless mouse", "Logitech"),
    ProductWords("104", "Mouse, wireless, for children", "Logitech"),
    ProductWords("105", "Café table 80x80", "Ostara"),
    ProductWords("A-1/b", "Running shoes size 42", "Ostara"),
    ProductWords("107", "Sunflower seeds 500g", "Ostara"),
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> LexicalIndex:
    folder = tmp_path_factory.mktemp("lexical")
    write_lexical(folder, PRODUCTS, "english")
    return LexicalIndex(folder, Boosts())


def test_stems_phrases_and_accents(index: LexicalIndex) -> None:
    assert index.search("wireless mouse", 5).rows.tolist() == [3, 4, 0]
    assert index.search("cafe tables", 5).rows[0] == 5
    assert index.search("RUN shoe", 5).rows.tolist() == [6]
    assert sorted(index.search("toners", 5).rows.tolist()) == [1, 2]
    assert index.search("ｗｉｒｅｌｅｓｓ", 5).rows[0] == 3
    assert index.search("telescope", 5).rows.tolist() == []
    assert index.search("?!", 5).rows.tolist() == []


@pytest.mark.parametrize(
    ("query", "row"),
    [
        ("100", 0),
        ("dv7-1211ea", 0),
        ("DV7 1211EA", 0),
        ("dv71211ea", 0),
        ("hp notebook dv7-1211ea charger", 0),
        ("006r90321", 1),
        ("toner 006R90321 black", 1),
        ("4053162123456", 1),
        ("buy 4053162123456", 1),
        ("tn2120", 2),
        ("TN 2120", 2),
        ("a1b", 6),
        ("A-1/B", 6),
    ],
)
def test_what_a_query_names_comes_first(index: LexicalIndex, query: str, row: int) -> None:
    found = index.search(query, 5)
    assert found.rows[0] == row
    assert found.exact.tolist() == [True] + [False] * (len(found.rows) - 1)


@pytest.mark.parametrize("query", ["seeds 500g", "table 80x80", "pack of 100", "tn-2120 or 006r90321", "shoes 42"])
def test_sizes_counts_and_several_names_name_no_product(index: LexicalIndex, query: str) -> None:
    assert not index.search(query, 5).exact.any()


@pytest.mark.parametrize("set_rows", [4096, 0])
def test_filters_leave_as_many_as_there_are(
    index: LexicalIndex, set_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lexical, "_SET_ROWS", set_rows)
    allowed = np.ones(len(PRODUCTS), bool)
    allowed[3] = False
    assert index.search("wireless mouse", 2, AllowedRows.of(allowed)).rows.tolist() == [4, 0]
    allowed[:] = False
    assert index.search("wireless mouse", 2, AllowedRows.of(allowed)).rows.tolist() == []
    allowed[0] = True
    assert index.search("wireless mouse", 1, AllowedRows.of(allowed)).rows.tolist() == [0]
    assert not index.search("006R90321", 5, AllowedRows.of(allowed)).exact.any()


def test_codes_are_tokens_with_digits_as_they_are_compared() -> None:
    assert codes("DB9 RS-232 (M/F) 0.5m x TN-2120/TN-2110, 7") == ["db9", "rs232", "05m", "tn2120tn2110"]


def test_fields_without_weight_are_not_searched(index: LexicalIndex, tmp_path: Path) -> None:
    write_lexical(tmp_path, PRODUCTS, "")
    only_brand = LexicalIndex(tmp_path, Boosts(title=0, category=0, code=0, description=0, phrase=0))
    assert sorted(only_brand.search("ostara mouse", 5).rows.tolist()) == [5, 6, 7]
    assert LexicalIndex(tmp_path, Boosts()).search("toners", 5).rows.tolist() == []


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(EngineLoadError, match=r"expected a lexical index, got .*; run endcap build lexical"):
        LexicalIndex(tmp_path, Boosts())


def test_common_words_only_order_what_rarer_words_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    products = [ProductWords(f"n{row}", f"cotton shirt {'red' if row % 10 else 'green'}") for row in range(300)]
    products += [ProductWords(f"s{row}", "silk shirt red") for row in range(3)]
    products.append(ProductWords("v", "velvet jacket"))
    write_lexical(tmp_path, products, "english")
    index = LexicalIndex(tmp_path, Boosts())
    unlimited = {text: index.search(text, 400) for text in ("silk shirt red", "green shirt", "velvet shirt", "shirt")}
    monkeypatch.setattr(lexical, "_MOST_SCORED", 50)
    monkeypatch.setattr(lexical, "_LEAST_SCORED", 2)
    for text, count in (("silk shirt red", 3), ("green shirt", 30)):
        found = index.search(text, 400)
        assert len(found.rows) == count < len(unlimited[text].rows)
        # What is found is what came first before, with the same scores.
        assert sorted(found.rows.tolist()) == sorted(unlimited[text].rows[:count].tolist())
        np.testing.assert_allclose(found.scores, unlimited[text].scores[:count], rtol=1e-6)
    # The only product with the rare word is not all that is found; and a search of common words finds as before.
    for text in ("velvet shirt", "shirt"):
        np.testing.assert_array_equal(index.search(text, 400).rows, unlimited[text].rows)
    allowed = np.arange(len(index)) % 2 == 0
    rows = index.search("silk shirt red", 5, AllowedRows.of(allowed)).rows
    assert set(rows.tolist()) == {300, 302}
