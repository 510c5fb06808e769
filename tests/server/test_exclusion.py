import numpy as np
import pytest
from endcap_server.shop.exclusion import ExcludedNames, Exclusions
from endcap_server.shop.store import ItemStore
from tiny_shop import build_shop


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ItemStore:
    return ItemStore.open(build_shop(tmp_path_factory.mktemp("shop")))


def excluded(store: ItemStore, **exclude: list[str]) -> ExcludedNames:
    found = Exclusions(store).of({"exclude": exclude})
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("exclude", "named", "free"),
    [
        (
            {"categories": ["home > lamps"]},
            ["Lamps", "A LAMP for the hall", "Reading lamps", "ｌａｍｐ"],
            ["Soft rugs", "Home"],
        ),
        ({"categories": ["Home"]}, ["Home comforts", "lamp", "wool rug"], ["Garden tools", "Green tea"]),
        ({"brands": ["kiefer &  CO"]}, ["Best of Kiefer & Co", "kiefer co"], ["Kiefer wood", "Co and Kiefer"]),
        ({"products": ["p0"]}, ["Norrland desk lamp, small"], ["Norrland", "desk lamp"]),
        ({"categories": ["grocery > drinks"]}, ["Time for green tea", "drinks"], ["Salted nuts", "grocery"]),
        ({"products": ["unknown"], "brands": ["Nobody"]}, [], ["Nobody", "unknown"]),
    ],
)
def test_texts_that_name_what_is_excluded(store, exclude, named, free):
    found = excluded(store, **exclude)
    assert [text for text in named if not found.names(text)] == []
    assert [text for text in free if found.names(text)] == []


def test_keywords_about_what_is_excluded(store):
    found = excluded(store, categories=["home > lamps"])
    rows = np.arange(len(store.keywords))
    about = found.keywords(rows)
    named = set(np.asarray(list(store.keywords))[about])
    assert named >= {"desk lamp", "floor lamp", "reading lamp", "lamp shade"}
    assert named.isdisjoint({"wool rug", "garden spade", "green tea", "board game"})
    assert found.keywords(np.empty(0, np.int32)).shape == (0,)


def test_nothing_excluded(store):
    assert Exclusions(store).of({}) is None
