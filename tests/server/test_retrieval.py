import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endcap_server.declared.errors import InvalidRequest, OverloadError, ParameterError
from endcap_server.declared.tensors import Tensors, bytes_tensor
from endcap_server.shop.rules import Exclude
from endcap_server.stages.candidates import popular_rows
from endcap_server.stages.documents import KeywordRows, PageRequest, ThemeRequest, Themes, content_and_ticket
from endcap_server.stages.in_flight import InFlight
from endcap_server.stages.retrieval import Retrieval
from endcap_server.stages.status import part_of
from tiny_shop import CATEGORIES, TinyEngines, build_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shop(tmp_path_factory.mktemp("shop"), out_of_stock=(1, 9))


@pytest.fixture(autouse=True)
def _run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDCAP_RUN_DIR", str(tmp_path))


def answer(shop: Path, broken: dict[str, str] | None = None, parameters: Any = None, **inputs: np.ndarray) -> Tensors:
    stage = Retrieval(shop, parameters or {"candidates": "20", "search_candidates": "20"}, TinyEngines(shop, broken))
    return asyncio.run(stage.run(inputs))


def ids(*rows: int) -> np.ndarray:
    return bytes_tensor([f"p{row}" for row in rows])


def page(out: Tensors) -> PageRequest:
    return PageRequest.read(out["PAGE"])


def themes(out: Tensors) -> ThemeRequest:
    return ThemeRequest.read(out["THEME_REQUEST"])


def categories_of(shop: Path, rows: np.ndarray) -> list[str]:
    return [list(CATEGORIES)[row // 8] for row in rows.tolist()]


def test_a_shopper_gets_candidates_of_each_interest(shop: Path) -> None:
    out = answer(shop, HISTORY=ids(0, 2, 40, 41))
    found = categories_of(shop, out["CANDIDATE_ROW"])
    assert {"home > lamps", "grocery > drinks"} <= set(found[:6])
    assert len(set(out["CANDIDATE_ROW"].tolist())) == len(found) == 20
    assert not {1, 9} & set(out["CANDIDATE_ROW"].tolist())
    assert list(page(out).history) == [0, 2, 40, 41]
    assert list(themes(out).categories) == [5, 0]
    shopper = themes(out).shopper
    assert "drinks" in shopper
    assert "lamps" in shopper
    status = part_of(out["PAGE"])
    assert status["source"] == "computed"
    assert status["unknown_ids"] == 0


def test_unknown_ids_are_skipped_and_counted(shop: Path) -> None:
    rules = bytes_tensor(['{"pin": ["ghost", "p3"], "exclude": {"products": ["ghost"]}}'])
    out = answer(shop, HISTORY=bytes_tensor(["p0", "gone", "p2", "gone"]), RULES=rules)
    assert list(page(out).history) == [0, 2]
    assert part_of(out["PAGE"])["unknown_ids"] == 3


def test_the_last_known_products_of_a_long_history_count(shop: Path) -> None:
    history = bytes_tensor(["gone"] * 2000 + ["p5"] + [f"p{row % 8}" for row in range(2999)])
    out = answer(shop, HISTORY=history, parameters={"history_used": "200"})
    assert list(page(out).history) == [row % 8 for row in range(2799, 2999)]
    short = answer(shop, HISTORY=bytes_tensor(["gone"] * 2000 + ["p5"]))
    assert list(page(short).history) == [5]
    assert part_of(short["PAGE"])["unknown_ids"] == 2000


def test_a_session_leads(shop: Path) -> None:
    out = answer(shop, HISTORY=ids(40, 41), SESSION=bytes_tensor(["jigsaw puzzle"]))
    found = categories_of(shop, out["CANDIDATE_ROW"])
    assert found[0] == "toys > puzzles"
    assert "grocery > drinks" in found[:6]
    assert "searched:jigsaw puzzle" in themes(out).shopper


def test_a_new_shopper_gets_popular_products_of_many_categories(shop: Path) -> None:
    out = answer(shop)
    assert len(set(categories_of(shop, out["CANDIDATE_ROW"][:8]))) == 8
    assert out["CANDIDATE_ROW"][0] == 0
    assert "new shopper" in themes(out).shopper
    assert list(themes(out).categories) == []
    assert part_of(out["PAGE"])["source"] == "computed"


def test_a_session_without_history_says_its_categories(shop: Path) -> None:
    out = answer(shop, SESSION=bytes_tensor(["tomato seeds"]))
    assert themes(out).categories[0] == 3


@pytest.mark.parametrize("failure", ["dead", "late"])
def test_without_the_engine_popular_products(shop: Path, failure: str) -> None:
    out = answer(shop, {"nearest": failure}, HISTORY=ids(0), BUDGET_MS=np.array([60], np.int32))
    status = part_of(out["PAGE"])
    assert status["source"] == "fallback"
    assert "nearest" in status["reason"]
    assert len(out["CANDIDATE_ROW"]) == 20


def test_rules_hold_for_candidates(shop: Path) -> None:
    rules = bytes_tensor(['{"exclude": {"categories": ["home"], "brands": ["Ostara"]}, "campaign": "Tea week"}'])
    out = answer(shop, HISTORY=ids(0, 2, 40), RULES=rules)
    assert not [name for name in categories_of(shop, out["CANDIDATE_ROW"]) if name.startswith("home")]
    assert "campaign:Tea week" in themes(out).shopper
    assert themes(out).rules == {
        "campaign": "Tea week",
        "exclude": {"brands": ["Ostara"], "categories": ["home"]},
    }
    assert page(out).rules.exclude == Exclude(brands=("Ostara",), categories=("home",))


def test_a_search(shop: Path) -> None:
    query = bytes_tensor(["Green  tea"])
    out = answer(shop, QUERY=query, HISTORY=ids(0))
    same = answer(shop, QUERY=query)
    assert out["CANDIDATE_ROW"].tolist() == same["CANDIDATE_ROW"].tolist()
    assert set(categories_of(shop, out["CANDIDATE_ROW"][:2])) == {"grocery > drinks"}
    assert (np.diff(out["CANDIDATE_SIMILARITY"] + out["CANDIDATE_LEXICAL"]) <= 1e-6).all()
    assert out["CANDIDATE_LEXICAL"][0] == 1
    assert (page(out).is_search, page(out).products) == (True, 12)
    assert Themes.read(out["QUERY_THEMES"]).titles == ("Green tea",)
    keyword = list(CATEGORIES.values())[5].index("green tea") + 5 * 4
    assert KeywordRows.read(out["QUERY_KEYWORDS"]).array[0, 0] == keyword
    assert list(page(out).history) == [0]


@pytest.mark.parametrize("failure", ["", "dead"])
@pytest.mark.parametrize("what", [{"QUERY": bytes_tensor(["green tea"])}, {"HISTORY": ids(45, 44)}, {}])
def test_a_broad_exclusion_leaves_as_many_products_as_asked_for(
    shop: Path, failure: str, what: dict[str, np.ndarray]
) -> None:
    rules = bytes_tensor(['{"exclude": {"categories": ["garden", "grocery", "toys", "home > rugs"]}}'])
    out = answer(shop, {"nearest": failure}, RULES=rules, PRODUCTS=np.array([7], np.int32), **what)
    assert sorted(out["CANDIDATE_ROW"].tolist()) == [0, 2, 3, 4, 5, 6, 7]


def test_a_search_has_at_least_as_many_candidates_as_products(shop: Path) -> None:
    out = answer(shop, QUERY=bytes_tensor(["tea"]), PRODUCTS=np.array([50], np.int32))
    assert len(out["CANDIDATE_ROW"]) == 50


def test_a_product_that_a_search_names_leads(shop: Path) -> None:
    out = answer(shop, QUERY=bytes_tensor(["p33"]))
    assert out["CANDIDATE_ROW"][0] == 33
    assert page(out).named == (33,)
    rules = bytes_tensor(['{"exclude": {"products": ["p33"]}}'])
    assert page(answer(shop, QUERY=bytes_tensor(["p33"]), RULES=rules)).named == ()
    assert page(answer(shop, QUERY=bytes_tensor(["p1"]))).named == ()


def test_words_find_what_vectors_do_not(shop: Path) -> None:
    """The tiny shop's vectors know no brand by a part of its name; its words do."""
    out = answer(shop, QUERY=bytes_tensor(["wooden puzzle large"]), parameters={"search_candidates": "10"})
    assert out["CANDIDATE_LEXICAL"].max() == 1
    without = answer(
        shop, QUERY=bytes_tensor(["wooden puzzle large"]), parameters={"search_candidates": "10", "search_words": "0"}
    )
    assert out["CANDIDATE_ROW"].tolist() != without["CANDIDATE_ROW"].tolist()


def test_a_search_without_the_engine_finds_a_known_keyword(shop: Path) -> None:
    out = answer(shop, {"nearest": "dead"}, QUERY=bytes_tensor(["green tea"]))
    assert set(categories_of(shop, out["CANDIDATE_ROW"][:2])) == {"grocery > drinks"}
    assert part_of(out["PAGE"])["source"] == "fallback"


def test_a_catalogue_without_categories(tmp_path: Path) -> None:
    shop = build_shop(tmp_path / "shop", categories=False)
    out = answer(shop, HISTORY=ids(41, 45, 0))
    shopper = themes(out).shopper
    assert "green tea" in shopper
    assert "desk lamp" in shopper
    assert list(themes(out).categories) == []
    assert "likes" not in themes(answer(shop, {"nearest": "dead"}, HISTORY=ids(0))).shopper


def test_budget_and_deadline(shop: Path) -> None:
    before = time.monotonic_ns()
    out = answer(shop, BUDGET_MS=np.array([1000], np.int32), HISTORY=ids(0))
    after = time.monotonic_ns()
    ticket = page(out).ticket
    assert ticket == themes(out).ticket
    assert ticket.table == "retrieval"
    assert before + 1_000_000_000 <= ticket.deadline_ns <= after + 1_000_000_000
    assert before + 350_000_000 <= ticket.theme_ns <= after + 350_000_000
    assert ticket.keywords_ns == pytest.approx(ticket.theme_ns + 250_000_000, abs=5_000_000)


def test_what_retrieval_takes_beyond_its_share_is_taken_from_the_others(shop: Path) -> None:
    out = answer(shop, {"nearest": "late"}, BUDGET_MS=np.array([200], np.int32), HISTORY=ids(0))
    ticket = page(out).ticket
    assert ticket.theme_ns < ticket.keywords_ns < ticket.deadline_ns


def test_equal_requests_ask_for_equal_themes_whatever_their_budgets(shop: Path) -> None:
    stage = Retrieval(shop, {}, TinyEngines(shop))

    def content(history: np.ndarray, budget_ms: int) -> bytes:
        out = asyncio.run(stage.run({"HISTORY": history, "BUDGET_MS": np.array([budget_ms], np.int32)}))
        return content_and_ticket(out["THEME_REQUEST"])[0]

    assert content(ids(0, 2), 900) == content(ids(0, 2), 7000)
    assert content(ids(0, 2), 900) != content(ids(40), 900)


def test_wrong_requests_and_parameters(shop: Path) -> None:
    with pytest.raises(InvalidRequest, match="PLACEMENTS: expected an integer of 1 to 16, got 99"):
        answer(shop, PLACEMENTS=np.array([99], np.int32))
    with pytest.raises(
        ParameterError, match=r"retrieval, parameter candidates: expected a valid integer.*, got 'many'"
    ):
        answer(shop, parameters={"candidates": "many"})
    with pytest.raises(ParameterError, match="parameter interests: expected less than or equal to 16, got '99'"):
        answer(shop, parameters={"interests": "99"})
    with pytest.raises(
        ParameterError, match=r"parameter candidate: expected one of .*candidates.*, got an unknown name"
    ):
        answer(shop, parameters={"candidate": "5"})
    with pytest.raises(ParameterError, match=r"leave 0.05 for rerank and fusion, their sum is 1.2"):
        answer(shop, parameters={"theme_share": "0.8"})


@pytest.mark.usefixtures("_run_dir")
def test_popular_rows_take_turns(shop: Path) -> None:
    store = TinyEngines(shop).store
    rows = popular_rows(store)
    assert sorted(rows.tolist()) == list(range(64))
    assert rows[:8].tolist() == [0, 8, 16, 24, 32, 40, 48, 56]
    assert rows[8:10].tolist() == [1, 9]


def test_more_than_it_can_answer_is_refused_and_what_fails_does_not_count(shop: Path) -> None:
    stage = Retrieval(shop, {"max_in_flight": "3"}, TinyEngines(shop))
    for _ in range(10):
        with pytest.raises(InvalidRequest, match="PLACEMENTS"):
            asyncio.run(stage.run({"PLACEMENTS": np.array([0], np.int32)}))
    answers = [asyncio.run(stage.run({"QUERY": bytes_tensor(["lamp"])})) for _ in range(3)]
    assert [part_of(answer["PAGE"])["in_flight"] for answer in answers] == [1, 2, 3]
    assert len({page(answer).ticket.deadline_ns for answer in answers}) == 3
    with pytest.raises(OverloadError, match=r"overloaded: 3 requests in flight, the most that max_in_flight allows"):
        asyncio.run(stage.run({"QUERY": bytes_tensor(["lamp"])}))
    InFlight().leave(page(answers[0]).ticket.deadline_ns)
    asyncio.run(stage.run({}))


def test_without_a_limit_nothing_is_refused(shop: Path) -> None:
    stage = Retrieval(shop, {"max_in_flight": "0"}, TinyEngines(shop))
    for _ in range(100):
        found = asyncio.run(stage.run({"QUERY": bytes_tensor(["lamp"])}))
        assert len(found["CANDIDATE_ROW"])
        assert "in_flight" not in part_of(found["PAGE"])


def test_an_equal_request_gets_the_candidates_that_were_found(shop: Path) -> None:
    engines = TinyEngines(shop)
    stage = Retrieval(shop, {}, engines)

    def run(**inputs: np.ndarray) -> Tensors:
        return asyncio.run(stage.run({"HISTORY": ids(0, 2, 40), "SESSION": bytes_tensor(["desk lamp"])} | inputs))

    first, calls = run(), list(engines.calls)
    again = run(SHOPPER=bytes_tensor(["who"]), BUDGET_MS=np.array([5000], np.int32))
    assert engines.calls == calls
    assert part_of(first["PAGE"])["source"] == "computed"
    assert part_of(again["PAGE"])["source"] == "cached"
    assert part_of(again["PAGE"])["budget_ms"] == 5000
    for name in ("CANDIDATE_ROW", "CANDIDATE_SOURCE", "CANDIDATE_SIMILARITY"):
        np.testing.assert_array_equal(again[name], first[name])
    assert content_and_ticket(again["THEME_REQUEST"])[0] == content_and_ticket(first["THEME_REQUEST"])[0]
    others = (
        {"HISTORY": ids(0, 40, 2)},
        {"SESSION": bytes_tensor(["rug"])},
        {"RULES": bytes_tensor(['{"exclude": {"products": ["p4"]}}'])},
        {"PRODUCTS": np.array([3], np.int32)},
    )
    for other in others:
        assert part_of(run(**other)["PAGE"])["source"] == "computed"


def test_what_an_engine_did_not_answer_is_asked_for_again(shop: Path) -> None:
    stage = Retrieval(shop, {}, TinyEngines(shop, {"nearest": "dead"}))
    for _ in range(2):
        assert "reason" in part_of(asyncio.run(stage.run({"HISTORY": ids(0, 2)}))["PAGE"])
        assert len(stage.recent) == 0


def test_no_shopper_is_kept_where_none_shall_be(shop: Path) -> None:
    stage = Retrieval(shop, {"cached_shoppers": "0"}, TinyEngines(shop))
    sources = [part_of(asyncio.run(stage.run({"HISTORY": ids(0)}))["PAGE"])["source"] for _ in range(2)]
    assert sources == ["computed", "computed"]
