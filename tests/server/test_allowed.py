"""Masks of what may be shown are worked out once for equal facts and rules, and anew when either changes."""

from dataclasses import replace

import numpy as np
import pytest
from endcap_server.shop.facts import FactsNow
from endcap_server.shop.rule_index import RuleIndex
from endcap_server.shop.rules import MerchandisingRules
from endcap_server.shop.store import ItemStore
from endcap_server.stages.allowed import Allowed, AllowedOf
from tiny_shop import build_shop


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ItemStore:
    return ItemStore.open(build_shop(tmp_path_factory.mktemp("shop"), out_of_stock=(3, 9)))


def test_masks_follow_facts_and_rules(store: ItemStore) -> None:
    rules, facts = RuleIndex(store), FactsNow.of_catalogue(store)
    sold_out = replace(facts, epoch=1, share=np.where(np.arange(len(store)) == 20, 0, facts.share))
    asked = [MerchandisingRules.model_validate({"exclude": {"products": [f"p{row}"]}}) for row in range(40)]
    allowed = AllowedOf()
    # More sets of rules than are remembered, each asked for twice, with facts that change between and come back.
    for now in (facts, sold_out, facts):
        for rule in (*asked, *asked):
            compiled = rules.compile(rule)
            got = allowed(now, compiled)
            expected = Allowed(now, compiled)
            np.testing.assert_array_equal(got.each, expected.each)
            np.testing.assert_array_equal(got.bits, expected.bits)
            hidden = {*np.flatnonzero(now.share == 0).tolist(), int(rule.exclude.products[0][1:])}
            assert set(np.flatnonzero(~got.each).tolist()) == hidden


def test_equal_requests_share_a_mask(store: ItemStore) -> None:
    rules, facts, allowed = RuleIndex(store), FactsNow.of_catalogue(store), AllowedOf()
    first = allowed(facts, rules.compile(MerchandisingRules()))
    assert allowed(facts, rules.compile(MerchandisingRules())) is first
    assert allowed(replace(facts, epoch=1), rules.compile(MerchandisingRules())) is not first
