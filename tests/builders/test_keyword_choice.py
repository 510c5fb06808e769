"""Which keywords the merchandiser chooses for a theme."""

from types import SimpleNamespace

import numpy as np
import pytest
from endcap_builders.merchandising.keyword_choice import choose_keywords
from endcap_builders.merchandising.teacher import KeywordRequest
from endcap_builders.merchandising.vocabulary import Vocabulary
from endcap_server.shop.prompts import ThemeDraft

# Keyword -> (angle of its vector, topic, plain words without a brand).
KEYWORDS = {
    "milk": (0.0, 0, True),
    "oat milk": (0.1, 0, True),
    "acme milk": (0.05, 0, False),
    "yogurt": (0.6, 1, True),
    "acme yogurt": (0.65, 1, False),
    "acme butter": (0.7, 1, False),
    "hammer": (1.5, 2, True),
}


@pytest.fixture
def vocabulary() -> Vocabulary:
    angles, topics, plain = (np.array(column) for column in zip(*KEYWORDS.values(), strict=True))
    store = SimpleNamespace(
        keywords=list(KEYWORDS),
        keyword_vectors=np.stack([np.cos(angles), np.sin(angles)], axis=1),
        keyword_counts=np.ones(len(KEYWORDS), np.int64),
    )
    known = SimpleNamespace(of_keyword=topics, conceptual=plain, by_name=dict)
    return Vocabulary(SimpleNamespace(store=store, topics=known), lambda texts: np.zeros((len(texts), 2), np.float32))


def chosen(vocabulary: Vocabulary, concepts: tuple[str, ...], count: int) -> list[str]:
    return choose_keywords(vocabulary, KeywordRequest(ThemeDraft("Any", concepts), tuple(KEYWORDS), count))


def test_concepts_take_turns_and_brands_come_last(vocabulary: Vocabulary) -> None:
    assert chosen(vocabulary, ("milk", "yogurt"), 2) == ["milk", "yogurt"]
    assert chosen(vocabulary, ("oat milk", "yogurt"), 3) == ["oat milk", "yogurt", "acme milk"]


def test_no_keyword_holds_another(vocabulary: Vocabulary) -> None:
    assert not {"oat milk", "acme milk"} & set(chosen(vocabulary, ("milk", "yogurt"), len(KEYWORDS)))


def test_a_brands_placement_has_the_brands_keywords(vocabulary: Vocabulary) -> None:
    assert set(chosen(vocabulary, ("acme milk", "acme yogurt"), 3)) == {"acme milk", "acme yogurt", "acme butter"}


def test_what_is_about_something_else_comes_last_of_all(vocabulary: Vocabulary) -> None:
    assert chosen(vocabulary, ("milk", "yogurt"), len(KEYWORDS))[-1] == "hammer"


def test_no_candidate_is_known(vocabulary: Vocabulary) -> None:
    assert choose_keywords(vocabulary, KeywordRequest(ThemeDraft("Any", ("milk",)), ("tent",), 2)) == []
