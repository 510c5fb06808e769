"""The words that generated titles may use."""

from pathlib import Path

import pytest
from endcap_server.store import ItemStore
from endcap_server.title_checks import TITLE_WORDS, WordCheck, title_words
from tiny_shop import build_shop


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ItemStore:
    return ItemStore.open(build_shop(tmp_path_factory.mktemp("shop")))


def test_misspelt_words_are_found(store: ItemStore, tmp_path: Path) -> None:
    words = title_words(["Goes well with pasta", "Running low?"])
    assert words == ["goes", "low", "pasta", "running", "well", "with"]
    (tmp_path / TITLE_WORDS).write_text("\n".join(words))
    check = WordCheck.of(store, tmp_path)
    assert check is not None
    known = store.keywords[0]
    assert check.unknown_in(f"Goes well with {known}", "") == []
    assert check.unknown_in(f"Gowell with {known}", "") == ["gowell"]
    assert check.unknown_in("Running low on zwieback?", "") == ["zwieback"]
    assert check.unknown_in("Running low on zwieback?", 'searched "zwieback"') == []


def test_a_student_without_the_list_is_not_checked(store: ItemStore, tmp_path: Path) -> None:
    assert WordCheck.of(store, tmp_path) is None
