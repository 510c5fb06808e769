"""Look-ups of many texts at once find what single look-ups find."""

from pathlib import Path

import numpy as np
import pytest
from endcap_server.shop.columns import EncodedTexts, StringColumn, find_encoded
from hypothesis import given, settings
from hypothesis import strategies as st

TEXTS = st.lists(st.text(max_size=6), max_size=30)


@settings(max_examples=100, deadline=None)
@given(TEXTS, TEXTS)
def test_the_same_rows_as_single_look_ups(
    tmp_path_factory: pytest.TempPathFactory, there: list[str], wanted: list[str]
) -> None:
    column = written(tmp_path_factory.mktemp("column"), there)
    asked = [*wanted, *there[::2]]
    assert find_encoded(column, EncodedTexts.of(asked)).tolist() == column.find(asked).tolist()
    assert EncodedTexts.of(asked).texts() == asked


def test_texts_with_the_same_hash_are_told_apart(tmp_path: Path) -> None:
    column = written(tmp_path, ["one", "two", "six"])
    alike = StringColumn(column.blob, column.offsets, np.zeros(3, np.uint64), np.arange(3))
    wanted = EncodedTexts.of(["six", "one", "ten", "three"])
    same = EncodedTexts(wanted.blob, wanted.lengths, np.zeros(4, np.uint64))
    # Only the first of a hash is compared at once; the others are looked up one by one, by their real hash.
    assert find_encoded(alike, same).tolist()[1] == 0
    assert find_encoded(alike, same).tolist()[2:] == [-1, -1]


def written(folder: Path, texts: list[str]) -> StringColumn:
    StringColumn.write(folder, "texts", texts)
    return StringColumn.open(folder, "texts")
