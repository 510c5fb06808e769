"""Facts on pages and searches: stock, prices and standing rules act without a reload."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endcap_server.declared.tensors import Tensors, bytes_tensor, json_of, texts_of
from endcap_server.shop.facts import FOLDER, Facts, NumericColumn
from endcap_server.shop.facts_journal import FactsError, Rules
from endcap_server.shop.facts_state import FactChange, FactsWriter, RuleChange
from endcap_server.shop.facts_writer import JournalWriter
from endcap_server.shop.rules import MerchandisingRules, RulesError, read_rules
from endcap_server.shop.standing_rules import Standing, StandingRule
from endcap_server.shop.store import ItemStore
from endcap_server.stages.fusion import Fusion
from endcap_server.stages.keywords import Keywords
from endcap_server.stages.page import SIGNALS
from endcap_server.stages.rerank import Rerank
from endcap_server.stages.retrieval import Retrieval
from endcap_server.stages.theme import Theme
from tiny_shop import TinyEngines, build_shop


def rule(kind: str, subject: str, **more: Any) -> StandingRule:
    return StandingRule.model_validate({"rule": kind, "subject": subject, "reason": "a test", **more})


class Shop:
    """The stages of a running server, over one build."""

    def __init__(self, build: Path, **fusion: str) -> None:
        self.writer = FactsWriter(build / FOLDER, "test")
        self.moment = 1000.0
        engines = TinyEngines(build)
        self.stages = [stage(build, {}, engines) for stage in (Retrieval, Theme, Keywords, Rerank)]
        self.stages.append(Fusion(build, fusion, engines))

    def set(self, column: str, **values: float) -> None:
        self.moment += 1
        self.writer.write([FactChange(product, column, value, self.moment) for product, value in values.items()])

    def stand(self, *rules: StandingRule, remove: bool = False) -> None:
        self.writer.write(rules=[RuleChange(each, remove) for each in rules])

    def page(self, query: str = "", **inputs: np.ndarray) -> Tensors:
        async def run() -> Tensors:
            tensors: Tensors = {"BUDGET_MS": np.array([30_000], np.int32), **inputs}
            if query:
                tensors["QUERY"] = bytes_tensor([query])
            for stage in self.stages:
                if query and stage.name in ("theme", "keywords"):
                    tensors["THEMES"], tensors["KEYWORDS"] = tensors["QUERY_THEMES"], tensors["QUERY_KEYWORDS"]
                    continue
                known = stage.recall(tensors)
                if known is not None:
                    tensors |= {stage.status_tensor: stage.carry(known.status(), known.document)}
                    continue
                tensors |= await stage.run(tensors)
            if query:
                tensors.pop("KEYWORDS")
            return tensors

        return asyncio.run(run())


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(build_shop(tmp_path, out_of_stock=(1,)))


def shown(out: Tensors) -> list[str]:
    return [text for text in texts_of(out["PRODUCT_ID"]) if text]


def test_stock_changes_on_pages_and_searches(shop: Shop) -> None:
    before = shown(shop.page("desk lamp"))
    history = bytes_tensor(["p0", "p2", "p40"])
    assert "p1" not in before
    assert before[0] in shown(shop.page(HISTORY=history))
    shop.set("in_stock", **{before[0]: 0.0, "p1": 1.0})
    after = shop.page("desk lamp")
    assert before[0] not in shown(after)
    assert "p1" in shown(after)
    assert len(shown(after)) == len(before)
    assert before[0] not in shown(shop.page(HISTORY=history))
    assert json_of(after["STATUS"])["facts_as_of"] == "1970-01-01T00:16:41.000Z"
    shop.set("in_stock", **{before[0]: 0.25})
    assert before[0] in shown(shop.page("desk lamp"))
    assert before[0] in shown(shop.page(HISTORY=history))


def test_every_product_sold_out_is_an_empty_page_and_no_error(shop: Shop) -> None:
    shop.set("in_stock", **{f"p{row}": 0.0 for row in range(64)})
    assert shown(shop.page("desk lamp")) == shown(shop.page()) == []


def test_a_product_that_is_sold_out_after_retrieval_is_not_shown(shop: Shop) -> None:
    async def run() -> Tensors:
        tensors: Tensors = {"BUDGET_MS": np.array([30_000], np.int32), "QUERY": bytes_tensor(["desk lamp"])}
        retrieval, _, _, rerank, fusion = shop.stages
        tensors |= await retrieval.run(tensors)
        tensors |= {"THEMES": tensors["QUERY_THEMES"]}
        tensors |= await rerank.run(tensors | {"KEYWORDS": tensors["QUERY_KEYWORDS"]})
        shop.set("in_stock", p0=0.0)
        return tensors | await fusion.run(tensors)

    found = shown(asyncio.run(run()))
    assert found
    assert "p0" not in found


def test_bans_hold_for_products_brands_and_categories(shop: Shop) -> None:
    bans = [rule("ban", "product:p0"), rule("ban", "brand: OSTARA "), rule("ban", "category:home > rugs")]
    shop.stand(*bans)
    store = ItemStore.open(shop.stages[0].build)
    for out in (shop.page("desk lamp"), shop.page(HISTORY=bytes_tensor(["p8", "p40"]))):
        rows = store.product_ids.find(shown(out))
        assert len(rows)
        assert 0 not in rows
        assert "Ostara" not in {store.brands[each] for each in store.brand[rows]}
        assert "home > rugs" not in {store.categories[each] for each in store.category[rows]}
        assert json_of(out["STATUS"])["unknown_rules"] == []
    themes = texts_of(shop.page(HISTORY=bytes_tensor(["p8", "p40"]))["THEME_OUT"])
    assert not any("rug" in theme.lower() for theme in themes)
    shop.stand(*bans, remove=True)
    assert "p0" in shown(shop.page("desk lamp"))


def test_a_title_ban_acts_although_the_title_is_in_the_cache(shop: Shop) -> None:
    history = bytes_tensor(["p0", "p2", "p40"])
    shop.page(HISTORY=history)
    cached = shop.page(HISTORY=history)
    assert json_of(cached["STATUS"])["stages"]["theme"]["source"] == "cached"
    title = "Light up the evening"
    assert title in texts_of(cached["THEME_OUT"])
    shop.stand(rule("ban", f"title:{title.upper()}"))
    after = shop.page(HISTORY=history)
    assert title not in texts_of(after["THEME_OUT"])
    assert all(texts_of(after["THEME_OUT"]))
    assert json_of(after["STATUS"])["stages"]["theme"]["aiqa"]["title_banned"] == 1
    required = shop.page(HISTORY=history, RULES=bytes_tensor(['{"required_themes":["light up the evening"]}']))
    assert title not in texts_of(required["THEME_OUT"])
    assert json_of(required["STATUS"])["stages"]["theme"]["aiqa"]["required_theme_banned"] == 1


def test_a_title_ban_acts_on_classic_placements(shop: Shop) -> None:
    # More placements than there are themes.
    many = np.array([16], np.int32)
    out = shop.page(PLACEMENTS=many)
    sources = [each["source"] for each in json_of(out["STATUS"])["placements"]]
    classic = [title for title, source in zip(texts_of(out["THEME_OUT"]), sources, strict=False) if "classic" in source]
    assert classic
    shop.stand(rule("ban", f"title:{classic[0]}"))
    after = shop.page(PLACEMENTS=many)
    assert classic[0] not in texts_of(after["THEME_OUT"])
    assert json_of(after["STATUS"])["stages"]["fusion"]["aiqa"]["title_banned"] == 1


def test_another_title_is_shown_for_the_same_products_at_once(shop: Shop) -> None:
    history = bytes_tensor(["p0", "p2", "p40"])
    before = shop.page(HISTORY=history)
    place = texts_of(before["THEME_OUT"]).index("Light up the evening")
    rewritten = rule("rewrite", "title:light up  the EVENING", to="Lamps for long nights")
    shop.stand(rewritten)
    after = shop.page(HISTORY=history)
    assert texts_of(after["THEME_OUT"])[place] == "Lamps for long nights"
    assert shown(after) == shown(before)
    shop.stand(rewritten, remove=True)
    assert texts_of(shop.page(HISTORY=history)["THEME_OUT"]) == texts_of(before["THEME_OUT"])


def test_price_ranges_hold_together_with_that_of_the_request(shop: Shop) -> None:
    store = ItemStore.open(shop.stages[0].build)
    low, high = (float(each) for each in np.quantile(store.price, (0.25, 0.75)))
    shop.stand(rule("price", f"price:{low}.."), rule("price", f"price:..{high}"))
    rules = bytes_tensor([f'{{"price": {{"max": {(low + high) / 2}}}}}'])
    for out, most in ((shop.page("desk lamp"), high), (shop.page(), high), (shop.page(RULES=rules), (low + high) / 2)):
        prices = store.price[store.product_ids.find(shown(out))]
        assert len(prices)
        assert prices.min() >= np.float32(low)
        assert prices.max() <= np.float32(most)


def test_a_standing_campaign_and_theme_stand_below_those_of_the_request() -> None:
    campaigns = [rule("campaign", "campaign:spring"), rule("campaign", "campaign:autumn comfort")]
    standing = Standing.at([*campaigns, rule("require", "title:Rainy days"), rule("approve", "title:Tea")], 0.0)
    assert standing.under(MerchandisingRules()).of_themes() == {
        "campaign": "autumn comfort",
        "required_themes": ["Rainy days"],
    }
    own = MerchandisingRules(campaign="gifts", required_themes=("Tea time",))
    assert standing.under(own).of_themes() == {"campaign": "gifts", "required_themes": ["Tea time", "Rainy days"]}
    assert standing.of_searches.under(MerchandisingRules()).of_themes() == {}


def test_a_required_theme_stands_on_every_page(shop: Shop) -> None:
    shop.stand(rule("require", "title:Rainy days"))
    assert texts_of(shop.page()["THEME_OUT"])[0] == "Rainy days"


def test_rules_of_the_future_are_known(shop: Shop) -> None:
    later = rule("ban", "product:p0", start=4e9)
    shop.stand(later, rule("pin", "product:p1"))
    facts = Facts(ItemStore.open(shop.stages[0].build), shop.stages[0].build / FOLDER)
    assert [each.rule for each in facts.rules()] == ["ban", "pin"]
    assert [each.rule for each in facts.now().standing.rules] == ["pin"]
    shop.stand(later, remove=True)
    assert [each.rule for each in facts.rules()] == ["pin"]


def test_approved_titles_are_no_standing_rules_that_count(shop: Shop) -> None:
    approved = [rule("approve", f"title:Theme {number}") for number in range(1200)]
    shop.stand(*approved, *(rule("bury", f"product:p{number}", factor=0.5) for number in range(60)))
    assert shown(shop.page())


def test_factors_and_pins_stand_below_those_of_the_request(shop: Shop) -> None:
    shop.stand(rule("bury", "category:home > lamps", factor=0.0), rule("pin", "product:p9"), rule("pin", "product:p1"))
    page = shown(shop.page())
    assert page[0] == "p9"
    assert "p1" not in page, "a pin of what is sold out"
    request = shown(shop.page(RULES=bytes_tensor(['{"pin":["p20","p9"]}'])))
    assert request[:2] == ["p20", "p9"]
    assert "p9" not in shown(shop.page("desk lamp"))[:1], "standing pins are not for searches"
    lamps = {f"p{row}" for row in range(8)}
    assert not lamps & set(shown(shop.page("desk lamp"))[:3])
    boosted = shop.page("desk lamp", RULES=bytes_tensor(['{"boost":{"category:Home > Lamps":2}}']))
    assert set(shown(boosted)[:3]) <= lamps


def test_a_rule_holds_from_its_start_to_its_end(tmp_path: Path) -> None:
    store = ItemStore.open(build_shop(tmp_path))
    moment = 100.0
    facts = Facts(store, tmp_path / FOLDER, clock=lambda: moment)
    FactsWriter(tmp_path / FOLDER, "test", clock=lambda: moment).write(
        rules=[RuleChange(rule("ban", "product:p1", start=200.0, end=300.0)), RuleChange(rule("ban", "brand:Ostara"))]
    )
    first = facts.now()
    assert [each.subject for each in first.standing.rules] == ["brand:Ostara"]
    assert facts.now() is first
    moment = 200.0
    assert len(facts.now().standing.rules) == 2
    assert facts.now().epoch > first.epoch
    moment = 300.0
    assert len(facts.now().standing.rules) == 1


def test_a_request_without_standing_rules_keeps_its_own() -> None:
    asked = MerchandisingRules(pin=("a",), boost={"brand:x": 2.0})
    assert Standing().under(asked) is asked
    stands = Standing.at([rule("boost", "brand: X", factor=3.0), rule("boost", "brand:y", factor=4.0)], 0.0)
    assert stands.under(asked).boost == {"brand:x": 2.0, "brand:y": 4.0}
    assert stands.under(MerchandisingRules(bury={"brand:X": 0.5})).boost == {"brand:y": 4.0}


def test_old_facts_degrade_visibly(tmp_path: Path) -> None:
    shop = Shop(build_shop(tmp_path), facts_stale_after_s="60")
    none = json_of(shop.page("desk lamp")["STATUS"])
    assert none["facts_as_of"] is None
    assert none["degraded"] == ["fusion"]
    shop.set("in_stock", p1=0.0)
    old = json_of(shop.page("desk lamp")["STATUS"])
    assert "facts: " in old["stages"]["fusion"]["reason"]
    assert old["stages"]["fusion"]["causes"] == [{"engine": "none", "cause": "facts_stale"}]
    assert old["stages"]["fusion"]["source"] == "computed"
    shop.writer.write(seen=4e9)
    assert json_of(shop.page("desk lamp")["STATUS"])["degraded"] == []


def test_facts_that_cannot_be_read_leave_those_before_in_force(tmp_path: Path) -> None:
    shop = Shop(build_shop(tmp_path))
    shop.set("in_stock", p0=0.0)
    writer = JournalWriter(tmp_path / FOLDER, "another version")
    with writer.locked():
        list(writer.reader.read())
        writer.append(Rules([{"rule": "hide", "subject": "product:p2"}]).encoded())
    out = shop.page("desk lamp")
    assert "p0" not in shown(out)
    status = json_of(out["STATUS"])
    assert status["stages"]["fusion"]["causes"] == [{"engine": "none", "cause": "facts_unreadable"}]
    with pytest.raises(FactsError, match="another version has written them"):
        shop.set("in_stock", p3=0.0)


def asking(**document: Any) -> dict[str, np.ndarray]:
    return {"RULES": bytes_tensor([json.dumps(document)])}


@pytest.mark.parametrize("query", ["", "desk lamp"])
def test_a_price_range_filters_by_the_present_price(shop: Shop, query: str) -> None:
    shop.set("price", **{f"p{row}": 9.99 if row % 2 else 20.0 for row in range(64)})
    shop.set("price", p3=float("nan"), p5=10.0)
    odd = {f"p{row}" for row in range(1, 64, 2)} - {"p1", "p3"}
    cheap = shown(shop.page(query, **asking(price={"max": 9.99})))
    assert cheap
    assert set(cheap) <= odd - {"p5"}
    dear = shown(shop.page(query, **asking(price={"min": 10})))
    assert dear
    assert not set(dear) & (odd - {"p5"})
    assert len(shown(shop.page("desk lamp", **asking(price={"min": 9.99, "max": 9.99})))) == 12
    assert shown(shop.page(query, **asking(price={"min": 100}))) == []
    pinned = shop.page(query, **asking(price={"min": 100}, pin=["p7"]))
    assert shown(pinned) == []
    assert json_of(pinned["STATUS"])["stages"]["fusion"]["aiqa"]["pin_excluded"] == 1


def test_the_least_share_in_stock(shop: Shop) -> None:
    shop.set("in_stock", p0=0.3, p4=0.5)
    found = shown(shop.page("desk lamp", **asking(least_in_stock=0.5)))
    assert "p0" not in found
    assert "p4" in found
    assert "p0" in shown(shop.page("desk lamp"))


@pytest.mark.parametrize("query", ["", "desk lamp", "Ostara desk lamp"])
def test_only_some_brands_and_categories(shop: Shop, query: str) -> None:
    store = ItemStore.open(shop.stages[0].build)
    history = bytes_tensor(["p0", "p2", "p41"])
    out = shop.page(
        query, HISTORY=history, **asking(only={"brands": ["norrland"], "categories": ["Garden", "toys>games"]})
    )
    rows = store.product_ids.find(shown(out))
    assert len(rows)
    assert {store.brands[each] for each in store.brand[rows]} == {"Norrland"}
    assert {store.categories[each].split(" > ")[0] for each in store.category[rows]} <= {"garden", "toys"}
    assert not any("lamp" in title.lower() for title in texts_of(out["THEME_OUT"]) if not query)
    unknown = shop.page(query, **asking(only={"brands": ["Acme"]}))
    assert shown(unknown) == []
    assert json_of(unknown["STATUS"])["unknown_rules"] == ["brand:Acme"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"price": {"min": -1}}, "greater than or equal to 0 in price.min, got -1"),
        ({"price": {"min": 3, "max": 2}}, "a max of at least min in price, got 2 below 3"),
        ({"price": {"least": 3}}, "the keys min, max in price, got 'least'"),
        ({"price": 3}, "in price, got 3"),
        ({"least_in_stock": 2}, "less than or equal to 1 in least_in_stock, got 2"),
        ({"only": {"products": ["p1"]}}, "the keys brands, categories in only, got 'products'"),
    ],
)
def test_wrong_rules_are_named(document: dict[str, Any], message: str) -> None:
    with pytest.raises(RulesError, match=re.escape(message)):
        read_rules(json.dumps(document))


def test_a_column_of_the_shop_boosts_and_buries(shop: Shop) -> None:
    lamps = shown(shop.page("desk lamp"))[:6]
    unknown = shop.page("desk lamp", **asking(boost={"column:margin": 50}))
    assert shown(unknown)[:6] == lamps
    assert json_of(unknown["STATUS"])["unknown_rules"] == ["column:margin"]
    shop.set("margin", **{f"p{row}": 0.1 for row in range(64)})
    shop.set("margin", **{lamps[5]: 0.6, "p4": float("nan")})
    boosted = shop.page("desk lamp", **asking(boost={"column:margin": 50}))
    assert shown(boosted)[0] == lamps[5]
    assert boosted["SIGNALS"][0, 0, SIGNALS.index("rule")] == 50
    assert boosted["SIGNALS"][0, 1, SIGNALS.index("rule")] == 1
    assert json_of(boosted["STATUS"])["unknown_rules"] == []
    buried = shop.page("desk lamp", **asking(bury={"column:margin": 0}))
    assert lamps[5] not in shown(buried)[:6]
    shop.stand(rule("boost", "column:margin", factor=50.0))
    assert shown(shop.page("desk lamp"))[0] == lamps[5]


def test_values_between_the_low_and_the_high_ones_count_in_proportion() -> None:
    values = np.concatenate([np.arange(101), [np.nan]]).astype(np.float32)
    scaled = NumericColumn(values).scaled
    assert scaled[[0, 5, 50, 95, 100, 101]].tolist() == pytest.approx([0, 0, 0.5, 1, 1, 0])
    assert NumericColumn(np.full(3, np.nan, np.float32)).scaled.tolist() == [0, 0, 0]
    assert NumericColumn(np.array([2, 2, 2, 2, 2], np.float32)).scaled.tolist() == [0] * 5
