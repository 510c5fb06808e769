"""Cases for the checks of titles."""

import difflib
import json

import numpy as np
import polars as pl
import pytest
from endcap_builders.catalogue import Catalogue
from endcap_builders.merchandising.lexicon import read_lexicon
from endcap_builders.merchandising.statistics import Statistics, compute_statistics
from endcap_builders.quality.title_cases import (
    BRAND,
    DUPLICATE,
    EXCLUDED,
    FAULTS,
    LANGUAGE,
    MISSPELT,
    OFF_CATALOGUE,
    POLICY,
    TitleCases,
    TitlePage,
    TitleTexts,
)
from endcap_server.shop.prompts import ThemeDraft
from endcap_server.shop.rule_index import RuleIndex
from endcap_server.shop.rules import read_rules
from endcap_server.shop.store import ItemStore
from endcap_server.shop.words import stems

from server import tiny_shop

GOOD = [
    TitlePage((ThemeDraft(f"Bright {name} for winter", ("lamp shade",)),), "likes:lamps") for name in ("lamps", "rugs")
]


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> Statistics:
    build = tmp_path_factory.mktemp("shop")
    store = ItemStore.open(tiny_shop.build_shop(build))
    return compute_statistics(Catalogue(build, pl.DataFrame(), None, None, None, "digest"), store, read_lexicon())


@pytest.fixture(scope="module")
def faults(statistics: Statistics) -> dict[str, list[TitlePage]]:
    return TitleCases(statistics, seed=1).faults(GOOD, 60)


def test_every_kind_has_cases_and_a_seed_repeats_them(statistics: Statistics, faults: dict) -> None:
    assert tuple(faults) == FAULTS
    assert all(faults.values())
    assert TitleCases(statistics, seed=1).faults(GOOD, 60) == faults
    assert TitleCases(statistics, seed=2).faults(GOOD, 60) != faults


def test_a_misspelt_title_differs_in_one_word(faults: dict) -> None:
    good = {page.drafts[0].title for page in GOOD}
    for page in faults[MISSPELT]:
        title = page.drafts[0].title
        assert title not in good
        before = difflib.get_close_matches(title, good, 1)[0]
        different = [(one, two) for one, two in zip(before.split(), title.split(), strict=True) if one != two]
        assert len(different) == 1
        assert abs(len(different[0][0]) - len(different[0][1])) <= 1


def test_a_wrong_brand_is_one_that_the_shopper_does_not_buy(statistics: Statistics, faults: dict) -> None:
    for page in faults[BRAND]:
        assert page.detail in statistics.store.brands
        assert page.detail in page.drafts[0].title
        assert page.detail.lower() not in page.shopper


def test_no_product_is_what_is_off_catalogue(statistics: Statistics, faults: dict) -> None:
    titles = [stems(title) for title in statistics.store.titles]
    assert not any(stems(page.detail) <= title for page in faults[OFF_CATALOGUE] for title in titles)
    assert "floor lamps" in TitleTexts.read().things
    assert all("floor lamps" not in page.drafts[0].title for page in faults[OFF_CATALOGUE]), "the shop has those"


def test_what_is_excluded_is_what_the_title_is_about(statistics: Statistics, faults: dict) -> None:
    index = RuleIndex(statistics.store)
    topics = statistics.topics.by_name()

    def allowed(page: TitlePage) -> np.ndarray:
        rules = read_rules(json.dumps(page.rules))
        return index.compile(rules).allowed(statistics.topics[topics[page.detail]].rows)

    assert not any(allowed(page).all() for page in faults[EXCLUDED])
    beside = TitleCases(statistics, seed=1).beside_exclusions(10)
    assert beside
    assert all(allowed(page).all() for page in beside)


def test_a_duplicate_has_other_words_and_other_concepts(faults: dict) -> None:
    for page in faults[DUPLICATE]:
        one, two = page.drafts
        assert page.place == 1
        assert one.title != two.title
        assert page.detail in one.title.lower()
        assert page.detail in two.title.lower()
        assert not set(one.concepts) & set(two.concepts)


def test_texts_are_titles_that_a_page_has_room_for(faults: dict) -> None:
    texts = TitleTexts.read()
    assert set(texts.policy) == {page.detail for page in faults[POLICY]}
    assert {page.detail for page in faults[LANGUAGE]} == set(texts.languages)
    kinds = (POLICY, OFF_CATALOGUE, LANGUAGE, DUPLICATE)
    shown = [draft.title for kind in kinds for page in faults[kind] for draft in page.drafts]
    assert max(map(len, shown)) <= 72
    assert "{" not in "".join(shown)
