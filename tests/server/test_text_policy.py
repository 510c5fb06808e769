from pathlib import Path

import pytest
from endcap_server.shop.text_policy import TextPolicy


@pytest.fixture(scope="module")
def policy() -> TextPolicy:
    return TextPolicy.read()


@pytest.mark.parametrize(
    "text",
    [
        "Cocktail dresses for summer",
        "Assorted classics",
        "Scunthorpe souvenirs",
        "Essex style sheets",
        "Grass seed and bass guitars",
        "Analysis kits",
        "100 % cotton basics",
        "4K TVs for the B2B office",
        "A to Z of D.I.Y.",
        "Curated picks",
        "Pass the class",
        "Xbox 360 evenings",
        "",
    ],
)
def test_harmless_titles_pass(policy: TextPolicy, text: str) -> None:
    assert policy.find(text) is None


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("Holy shit deals", "profanity"),
        ("SHITTY mugs", "profanity"),
        ("f u c k winter", "profanity"),
        ("s-h-i-t happens", "profanity"),
        ("fuuuuck this", "profanity"),
        ("sh1t", "profanity"),
        ("$h!t", "profanity"),
        ("ѕhіt with Cyrillic letters", "profanity"),
        ("ｓｈｉｔ", "profanity"),
        ("shi​t with an invisible space", "profanity"),
        ("fück", "profanity"),
        ("Crystal Meth", "drugs"),
        ("self-harm", "violence"),
        ("Money back promise", "claims"),
        ("Save 20% on tea", "claims"),
        ("Up to 50 % off", "claims"),
        ("Lamps from $5", "claims"),
    ],
)
def test_unwanted_titles_are_found(policy: TextPolicy, text: str, section: str) -> None:
    assert policy.find(text) == section


def test_own_word_list(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# ours\nrival\n[brands]\nother shop*  # any form\nété\n", encoding="utf-8")
    policy = TextPolicy.read(path)
    assert policy.find("Better than a rival") == "words"
    assert policy.find("rivals") is None
    assert policy.find("Other shoppers say") == "brands"
    assert policy.find("other") is None
    assert policy.find("Ete au jardin") == "brands"


def test_unreadable_word_list(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent.txt: expected a readable UTF-8 word list"):
        TextPolicy.read(tmp_path / "absent.txt")
    path = tmp_path / "words.txt"
    path.write_text("fine\n***\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"words.txt, line 2: expected a word or phrase"):
        TextPolicy.read(path)
