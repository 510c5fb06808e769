"""The words that generated titles may use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from endcap_server.shop.store import ItemStore
from endcap_server.shop.title_checks import (
    SEARCH_WORDS,
    TITLE_JOINS,
    TITLE_WORDS,
    WordCheck,
    search_words,
    title_joins,
    title_words,
)
from tiny_shop import build_shop
from tokenizers import Tokenizer
from tokenizers.models import WordPiece


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ItemStore:
    return ItemStore.open(build_shop(tmp_path_factory.mktemp("shop")))


def test_misspelt_words_are_found(store: ItemStore, tmp_path: Path) -> None:
    words = title_words(["Goes well with pasta", "Running low?"])
    assert words == ["goes", "low", "pasta", "running", "well", "with"]
    (tmp_path / TITLE_WORDS).write_text("\n".join(words), encoding="utf-8")
    check = WordCheck.of(store, tmp_path)
    assert check is not None
    known = store.keywords[0]
    assert check.unknown_in(f"Goes well with {known}", "") == []
    assert check.unknown_in(f"Gowell with {known}", "") == ["gowell"]
    assert check.unknown_in("Running low on zwieback?", "") == ["zwieback"]
    assert check.unknown_in("Running low on zwieback?", 'searched "zwieback"') == []


def test_ordinary_words_of_the_language_are_known(store: ItemStore, tmp_path: Path) -> None:
    """What an LLM may coin rightly is no misspelling because no title in training has it."""
    (tmp_path / TITLE_WORDS).write_text("pasta", encoding="utf-8")
    pieces = ["[UNK]", "treat", "yourself", "fun", "##ny", "zwie"]
    tokenizer = Tokenizer(WordPiece({piece: place for place, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    check = WordCheck.of(store, tmp_path, tmp_path / "tokenizer.json")
    assert check is not None
    assert check.unknown_in("Treat yourself to pasta", "") == []
    assert check.unknown_in("Funny zwieback, tret yo", "") == ["funny", "zwieback", "tret"], "parts are no words"
    without = WordCheck.of(store, tmp_path, tmp_path / "none.json")
    assert without is not None
    assert without.unknown_in("Treat pasta", "") == ["treat"]


def test_a_student_without_the_list_is_not_checked(store: ItemStore, tmp_path: Path) -> None:
    assert WordCheck.of(store, tmp_path) is None


def test_words_are_read_without_a_locale(tmp_path: Path) -> None:
    """Triton is often started without one, and Python then takes text files for ASCII."""
    (tmp_path / TITLE_WORDS).write_text("crème\nfraîche", encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from endcap_server.shop.store import ItemStore\n"
        "from endcap_server.shop.title_checks import WordCheck\n"
        "check = WordCheck.of(ItemStore.open(Path(sys.argv[1])), Path(sys.argv[2]))\n"
        "print(check.unknown_in('Cr\\u00e8me fra\\u00eeche zwieback', ''))"
    )
    bare = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, str(build_shop(tmp_path)), str(tmp_path)]
    done = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['zwieback']", done.stderr


def test_words_that_only_titles_about_a_search_have(store: ItemStore, tmp_path: Path) -> None:
    about = [(f"Still looking for {text}?", text) for text in ("milk", "eggs", "search light")]
    words = search_words([*about, ("Find your tea", "tea")], ["Running low on milk?", "What to look for"])
    assert words == ["looking", "still"], "not 'for', which other titles have, nor the words of the searches"
    (tmp_path / TITLE_WORDS).write_text("still\nlooking\nfor", encoding="utf-8")
    (tmp_path / SEARCH_WORDS).write_text("\n".join(words), encoding="utf-8")
    check = WordCheck.of(store, tmp_path)
    assert check is not None
    assert check.speaks_of_a_search("Still looking for rugs?")
    assert not check.speaks_of_a_search("Running low on rugs?")


@pytest.mark.parametrize(
    ("title", "broken"),
    [
        ("From tea to cheese", False),
        ("Goes with your cheese", False),
        ("Tea plus plus plus", True),
        ("From to go with your tea", True),
        ("Cheese and", True),
        ("Cheese for the with", True),
        ("What lamps are on", False),
    ],
)
def test_little_words_meet_as_in_the_learned_titles(store: ItemStore, tmp_path: Path, title: str, broken: bool) -> None:
    learned = ["From milk to eggs", "Milk plus eggs", "Goes with your milk and eggs", "For the table"]
    joins = title_joins(learned)
    assert joins == ["for the", "with your"]
    (tmp_path / TITLE_WORDS).write_text("\n".join(title_words(learned)), encoding="utf-8")
    (tmp_path / TITLE_JOINS).write_text("\n".join([*joins, "on ."]), encoding="utf-8")
    check = WordCheck.of(store, tmp_path)
    assert check is not None
    assert check.is_broken(title, "likes:tea") is broken


def test_what_the_shopper_searched_may_be_joined_as_they_did(store: ItemStore, tmp_path: Path) -> None:
    (tmp_path / TITLE_WORDS).write_text("gift\n", encoding="utf-8")
    check = WordCheck.of(store, tmp_path)
    assert check is not None
    assert not check.is_broken("Gifts for to from", ""), "a student without the list is not checked"
    (tmp_path / TITLE_JOINS).write_text("with your\n", encoding="utf-8")
    check = WordCheck.of(store, tmp_path)
    assert check is not None
    assert check.is_broken("Snacks for on the go", "likes:snacks")
    assert not check.is_broken("Snacks for on the go", "searched:snacks for on the go|likes:tea")
    assert not check.is_broken("A lamp to put on", "likes:tea|searched:a lamp to put on")
    assert check.is_broken("A lamp and", "likes:tea|searched:a lamp to put on")
