import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endcap_server.shop.rule_index import CompiledRules, RuleIndex
from endcap_server.shop.rules import MerchandisingRules, RulesError, read_rules
from endcap_server.shop.store import ItemStore
from hypothesis import given
from hypothesis import strategies as st
from tiny_shop import build_shop


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> RuleIndex:
    return RuleIndex(ItemStore.open(build_shop(tmp_path_factory.mktemp("shop"))))


def compiled(index: RuleIndex, **rules: Any) -> CompiledRules:
    return index.compile(read_rules(json.dumps(rules)))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "expected one JSON object, got text that is not JSON"),
        ("null", "expected one JSON object, got None"),
        ("[" * 300, "expected one JSON object, got text that is not JSON"),
        ('{"pins": []}', "expected the keys pin, exclude, .*, got 'pins'"),
        ('{"exclude": {"brand": []}}', "expected the keys products, brands, categories in exclude, got 'brand'"),
        ('{"pin": "a"}', "expected a valid array in pin, got 'a'"),
        ('{"pin": [1]}', "expected a valid string in pin.0, got 1"),
        ('{"boost": {"brand:a": 0.5}}', "expected factors from 1 to 100 .* in boost, got 0.5 of 'brand:a'"),
        ('{"bury": {"brand:a": 2}}', "expected factors from 0 to 1 .* in bury, got 2 of 'brand:a'"),
        ('{"boost": {"maker:a": 2}}', "expected keys like brand:NAME, .* in boost, got 'maker:a'"),
        ('{"boost": {"brand:a": NaN}}', "expected a finite number in boost.brand:a, got nan"),
        ('{"max_per_brand": true}', "expected a valid integer in max_per_brand, got True"),
        ('{"max_per_brand": 0}', "expected greater than or equal to 1 in max_per_brand, got 0"),
        ('{"required_themes": [" "]}', "at least 1 character in required_themes.0"),
        ('{"campaign": "\\ud800"}', "got text that is not JSON"),
    ],
)
def test_wrong_rules_say_what_is_wrong(document: str, message: str) -> None:
    with pytest.raises(RulesError, match=message):
        read_rules(document)


def test_canonical_form_is_equal_for_equal_rules() -> None:
    one = read_rules('{"exclude": {"brands": ["b", "a", "b"]}, "pin": ["y", "x"], "boost": {}, "campaign": " "}')
    two = read_rules('{"pin": ["y", "x", "y"], "exclude": {"brands": ["a", "b"], "products": []}}')
    assert one.canonical() == two.canonical() == {"exclude": {"brands": ["a", "b"]}, "pin": ["y", "x"]}
    assert MerchandisingRules().canonical() == {}
    assert MerchandisingRules.model_validate_json(json.dumps(one.canonical())).canonical() == one.canonical()


def test_theme_rules_are_only_what_themes_depend_on() -> None:
    rules = read_rules('{"campaign": "Spring", "required_themes": ["Tea time"], "pin": ["x"]}')
    assert rules.of_themes() == {"campaign": "Spring", "required_themes": ["Tea time"]}


def test_exclude_by_product_brand_and_category_prefix(index: RuleIndex) -> None:
    store = index.store
    rows = np.arange(len(store), dtype=np.int32)
    rules = compiled(
        index, exclude={"products": ["p3"], "brands": [" NORRLAND "], "categories": ["GARDEN", "Toys>Games"]}
    )
    allowed = rules.allowed(rows)
    for row in rows.tolist():
        path = store.categories[store.category[row]]
        excluded = row == 3 or store.brand[row] == 0 or path.startswith("garden") or path == "toys > games"
        assert allowed[row] == (not excluded)
    assert rules.unknown == []
    assert np.array_equal(rules.mask, allowed)


def test_products_without_brand_or_category_are_excluded_by_none(tmp_path: Path) -> None:
    index = RuleIndex(ItemStore.open(build_shop(tmp_path, categories=False)))
    rules = compiled(index, exclude={"categories": ["home"], "products": ["p63"]})
    assert rules.mask.tolist() == [True] * 63 + [False]


def test_a_part_of_a_category_name_is_no_prefix(index: RuleIndex) -> None:
    rules = compiled(index, exclude={"categories": ["gard", "lamps"]})
    assert rules.allowed(np.arange(64, dtype=np.int32)).all()
    assert rules.unknown == ["category:gard", "category:lamps"]


def test_factors_multiply(index: RuleIndex) -> None:
    rules = compiled(index, boost={"brand:norrland": 2, "category:home": 3}, bury={"product:p0": 0.5})
    rows = np.array([0, 1, 4, 62], np.int32)
    assert index.store.brand[rows].tolist() == [0, 1, 0, 1]
    assert rules.factors(rows).tolist() == [2 * 3 * 0.5, 3, 2 * 3, 1]


def test_unknown_names_are_listed(index: RuleIndex) -> None:
    rules = compiled(
        index, pin=["p1", "ghost"], exclude={"products": ["ghost"]}, boost={"product:other": 2, "brand:nobody": 2}
    )
    assert rules.pins.tolist() == [1]
    assert set(rules.unknown) == {"product:ghost", "product:other", "brand:nobody"}
    assert rules.unknown_products == 2


def test_no_rows(index: RuleIndex) -> None:
    rules = compiled(index, boost={"brand:norrland": 2}, exclude={"brands": ["Ostara"]})
    assert rules.factors(np.empty(0, np.int32)).tolist() == []
    assert rules.allowed(np.empty(0, np.int32)).tolist() == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.lists(st.text(max_size=5), max_size=4)
SUBJECTS = st.sampled_from(["brand:Norrland", "category:home", "product:p5", "brand:", "shelf:1", "product:zz"])
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "pin": NAMES | JSON,
        "exclude": st.fixed_dictionaries({}, optional={"products": NAMES, "brands": NAMES, "categories": NAMES}) | JSON,
        "boost": st.dictionaries(SUBJECTS, st.floats(0, 200), max_size=3) | JSON,
        "bury": st.dictionaries(SUBJECTS, st.floats(-1, 2), max_size=3),
        "max_per_brand": st.integers(-2, 5) | JSON,
        "campaign": st.text(max_size=210) | JSON,
        "required_themes": NAMES | JSON,
    },
)


@given(document=DOCUMENTS | JSON)
def test_any_document_is_compiled_or_refused(index: RuleIndex, document: Any) -> None:
    try:
        rules = read_rules(json.dumps(document))
    except RulesError:
        return
    again = read_rules(json.dumps(rules.canonical()))
    assert again.canonical() == rules.canonical()
    rows = np.arange(len(index.store), dtype=np.int32)
    one, two = index.compile(rules), index.compile(again)
    assert np.array_equal(one.allowed(rows), two.allowed(rows))
    assert np.allclose(one.factors(rows), two.factors(rows))
    assert (one.factors(rows) >= 0).all()


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("brand:Norrland", "brand: NORRLAND "),
        ("brand:Norrland", "brand:\uff2eorrland"),
        ("category:home > lamps", "category:Home>Lamps"),
    ],
)
@pytest.mark.parametrize("key", ["boost", "bury"])
def test_one_thing_in_two_spellings_is_refused(key, one, two):
    with pytest.raises(RulesError, match="once") as refused:
        read_rules(json.dumps({key: {one: 1, two: 1}}))
    assert repr(two) in refused.value.got


def test_factors_of_nested_categories_have_a_bound(tmp_path):
    store = ItemStore.open(build_shop(tmp_path))
    boost = {"category:home": 100, "category:home > lamps": 100, "brand:norrland": 100, "product:p0": 100}
    factors = RuleIndex(store).compile(read_rules(json.dumps({"boost": boost}))).factors(np.arange(len(store)))
    assert factors.max() == 100
    assert np.isfinite(factors).all()


def test_rules_are_compiled_once_whoever_asks(index: RuleIndex) -> None:
    document = json.dumps({"exclude": {"brands": ["Ostara"]}, "boost": {"product:p1": 2, "product:gone": 3}})
    first = index.compile(read_rules(document))
    assert index.compile(read_rules(document)) is first
    assert first.unknown == ["product:gone"]
    assert first.row_factors == {1: 2}
    assert index.compile(read_rules("{}")) is not first
