import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endcap_server.declared.errors import ParameterError
from endcap_server.declared.tensors import Tensors, bytes_tensor, json_of, texts_of
from endcap_server.exposures.record import FOLDER_VARIABLE
from endcap_server.exposures.segments import read_exposures
from endcap_server.shop.prompts import ThemeDraft, theme_completion
from endcap_server.shop.rules import MerchandisingRules
from endcap_server.stages.documents import KeywordRows, PageRequest, Themes
from endcap_server.stages.fusion import Fusion
from endcap_server.stages.fusion_parameters import blend_weights
from endcap_server.stages.keywords import Keywords
from endcap_server.stages.page import SIGNALS
from endcap_server.stages.ranking import RankerError
from endcap_server.stages.rerank import Rerank
from endcap_server.stages.retrieval import Retrieval
from endcap_server.stages.status import carried, read_versions
from endcap_server.stages.theme import Theme
from endcap_server.stages.trial import FILE as TRIAL
from hypothesis import given, settings
from hypothesis import strategies as st
from tickets import ticket
from tiny_shop import TinyEngines, build_shop
from waiting import wait_for

OUT_OF_STOCK = (1, 42)
PAGE = ("THEME_OUT", "KEYWORDS_OUT", "PRODUCT_ID", "SCORE", "SIGNALS", "STATUS")


AMPLE_MS = np.array([30_000], np.int32)
"""Stages are built while the budget runs, and the machine may be busy."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shop(tmp_path_factory.mktemp("shop"), OUT_OF_STOCK)


@pytest.fixture(scope="module")
def fusion(shop: Path) -> Fusion:
    return Fusion(shop, {}, TinyEngines(shop))


@pytest.fixture(autouse=True)
def _run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDCAP_RUN_DIR", str(tmp_path))


def storefront(shop: Path, broken: dict[str, str] | None = None, **inputs: np.ndarray) -> Tensors:
    """The stages one after the other, as the ensemble connects them."""

    async def run() -> Tensors:
        engines = TinyEngines(shop, broken)
        tensors = await Retrieval(shop, {}, engines).run({"BUDGET_MS": AMPLE_MS, **inputs})
        tensors |= await Theme(shop, {}, engines).run(tensors)
        tensors |= await Keywords(shop, {}, engines).run(tensors)
        tensors |= await Rerank(shop, {}, engines).run(tensors)
        return tensors | await Fusion(shop, {}, engines).run(tensors)

    return asyncio.run(run())


def search(shop: Path, query: str, broken: dict[str, str] | None = None, **inputs: np.ndarray) -> Tensors:
    async def run() -> Tensors:
        engines = TinyEngines(shop, broken)
        tensors = await Retrieval(shop, {}, engines).run(
            {"QUERY": bytes_tensor([query]), "BUDGET_MS": AMPLE_MS, **inputs}
        )
        tensors["THEMES"] = tensors["QUERY_THEMES"]
        tensors |= await Rerank(shop, {}, engines).run(tensors | {"KEYWORDS": tensors["QUERY_KEYWORDS"]})
        return tensors | await Fusion(shop, {}, engines).run(tensors)

    return asyncio.run(run())


def rules(**document: object) -> np.ndarray:
    return bytes_tensor([json.dumps(document)])


def check_page(out: Tensors) -> None:
    """What holds for every page."""
    ids, score, signals = out["PRODUCT_ID"], out["SCORE"], out["SIGNALS"]
    for place in range(len(ids)):
        shown = [text for text in texts_of(ids[place]) if text]
        assert texts_of(ids[place])[: len(shown)] == shown
        assert (np.diff(score[place, : len(shown)]) <= 0).all()
        assert not score[place, len(shown) :].any()
        assert not signals[place, len(shown) :].any()
    assert np.isfinite(score).all()
    assert np.isfinite(signals).all()
    everything = [text for text in texts_of(ids) if text]
    assert len(set(everything)) == len(everything)
    assert score.dtype == signals.dtype == np.float32


def test_a_page(shop: Path) -> None:
    out = storefront(shop, HISTORY=bytes_tensor(["p0", "p2", "p40"]), PRODUCTS=np.array([5], np.int32))
    check_page(out)
    assert out["PRODUCT_ID"].shape == (4, 5)
    assert out["SIGNALS"].shape == (4, 5, len(SIGNALS))
    themes = texts_of(out["THEME_OUT"])
    assert "Light up the evening" in themes
    place = themes.index("Light up the evening")
    assert texts_of(out["KEYWORDS_OUT"][place])[:2] == ["desk lamp", "floor lamp"]
    assert texts_of(out["PRODUCT_ID"][place])[0] in {f"p{row}" for row in range(8)}
    status = json_of(out["STATUS"])
    assert list(status["stages"]) == ["retrieval", "theme", "keywords", "rerank", "fusion"]
    assert {name: part["source"] for name, part in status["stages"].items()} == {
        "retrieval": "computed",
        "theme": "generated",
        "keywords": "generated",
        "rerank": "computed",
        "fusion": "computed",
    }
    assert status["signals"] == list(SIGNALS)
    assert status["degraded"] == []
    assert status["unknown_ids"] == 0
    assert status["versions"]["catalogue"] == "unknown"
    assert all(part["ms"] >= 0 for part in status["stages"].values())


@pytest.mark.parametrize("broken", [{}, {"theme_llm": "dead"}, {"keyword_llm": "dead"}, {"nearest": "dead"}])
@pytest.mark.parametrize(
    ("exclude", "word"),
    [
        ({"categories": ["home > lamps"]}, "lamp"),
        ({"categories": ["grocery"]}, "tea"),
        ({"brands": ["Ostara"]}, "ostara"),
    ],
)
def test_no_text_names_what_is_excluded(
    shop: Path, exclude: dict[str, list[str]], word: str, broken: dict[str, str]
) -> None:
    out = storefront(
        shop,
        broken,
        HISTORY=bytes_tensor(["p0", "p2", "p41", "p45"]),
        SESSION=bytes_tensor(["desk lamp", "green tea", "ostara"]),
        RULES=rules(exclude=exclude),
    )
    check_page(out)
    said = [*texts_of(out["THEME_OUT"]), *texts_of(out["KEYWORDS_OUT"])]
    assert [text for text in said if word in text.lower()] == []
    assert all(texts_of(out["THEME_OUT"]))
    assert json_of(out["STATUS"])["stages"]["retrieval"]["aiqa"]["session_excluded"] >= 1


def test_a_required_theme_that_names_what_is_excluded_is_said(shop: Path) -> None:
    out = storefront(shop, RULES=rules(exclude={"categories": ["home > lamps"]}, required_themes=["Lamps to love"]))
    assert "Lamps to love" in texts_of(out["THEME_OUT"])
    assert json_of(out["STATUS"])["stages"]["theme"]["aiqa"]["required_theme_excluded"] == 1


def test_a_search_in_an_unknown_script_says_so(shop: Path) -> None:
    out = search(shop, "\u043b\u0430\u043c\u043f\u0430", PRODUCTS=np.array([6], np.int32))
    check_page(out)
    status = json_of(out["STATUS"])
    assert status["understood"] is False
    assert status["not_understood"] == "unknown_script"
    assert not out["FIRST_SIGNALS"][:, SIGNALS.index("relevance")].any()
    status = json_of(search(shop, "green tea")["STATUS"])
    assert status["understood"] is True
    assert "not_understood" not in status


def test_a_search(shop: Path) -> None:
    out = search(shop, "green tea", HISTORY=bytes_tensor(["p0", "gone"]), PRODUCTS=np.array([6], np.int32))
    check_page(out)
    assert out["FIRST_PRODUCT_ID"].shape == out["FIRST_SCORE"].shape == (6,)
    assert out["FIRST_SIGNALS"].shape == (6, len(SIGNALS))
    assert set(texts_of(out["FIRST_PRODUCT_ID"])[:2]) == {"p41", "p45"}
    status = json_of(out["STATUS"])
    assert set(status["stages"]) == {"retrieval", "rerank", "fusion"}
    assert status["unknown_ids"] == 1


def test_a_search_is_never_emptied_by_the_floor(shop: Path) -> None:
    assert all(texts_of(search(shop, "something else entirely")["FIRST_PRODUCT_ID"]))


@pytest.mark.parametrize("engine", ["theme_llm", "keyword_llm", "cross_encoder", "nearest"])
@pytest.mark.parametrize("failure", ["dead", "late"])
def test_any_failing_engine_still_makes_a_page(shop: Path, engine: str, failure: str) -> None:
    out = storefront(shop, {engine: failure}, HISTORY=bytes_tensor(["p0", "p40"]), BUDGET_MS=np.array([400], np.int32))
    check_page(out)
    assert all(texts_of(out["PRODUCT_ID"][:, 0]))
    status = json_of(out["STATUS"])
    stage = {"theme_llm": "theme", "keyword_llm": "keywords", "cross_encoder": "rerank", "nearest": "retrieval"}[engine]
    assert status["stages"][stage]["source"] == "fallback"
    assert engine in status["stages"][stage]["reason"]
    assert stage in status["degraded"]


def test_everything_failing_still_makes_a_page(shop: Path) -> None:
    broken = dict.fromkeys(["theme_llm", "keyword_llm", "cross_encoder", "nearest"], "dead")
    out = storefront(shop, broken, HISTORY=bytes_tensor(["p0", "p40"]))
    check_page(out)
    assert all(texts_of(out["PRODUCT_ID"][:, 0]))
    assert set(json_of(out["STATUS"])["degraded"]) >= {"retrieval", "theme", "keywords", "rerank"}


def test_pins_exclusions_and_caps(shop: Path) -> None:
    document = rules(
        pin=["p63", "p1", "p40", "ghost"],
        exclude={"categories": ["home > rugs"], "brands": ["Ostara"]},
        max_per_brand=1,
    )
    out = storefront(shop, HISTORY=bytes_tensor(["p0", "p8"]), RULES=document)
    check_page(out)
    store = TinyEngines(shop).store
    # p1 is sold out.
    assert texts_of(out["PRODUCT_ID"][0])[:2] == ["p63", "p40"]
    shown = [int(text[1:]) for text in texts_of(out["PRODUCT_ID"]) if text]
    assert not {row for row in shown if store.brand[row] == 3 or store.category[row] == 1 or row in OUT_OF_STOCK}
    for place in range(1, 4):
        brands = store.brand[[int(text[1:]) for text in texts_of(out["PRODUCT_ID"][place]) if text]]
        assert len(set(brands.tolist())) == len(brands)
    status = json_of(out["STATUS"])
    assert status["stages"]["fusion"]["aiqa"]["pin_out_of_stock"] == 1
    assert status["unknown_ids"] == 1
    assert status["unknown_rules"] == ["product:ghost"]


def test_pins_go_before_the_brand_cap_and_count_towards_it(shop: Path) -> None:
    store = TinyEngines(shop).store
    brand = np.flatnonzero((store.brand == 2) & store.in_stock)[:3]
    out = search(shop, "green tea", RULES=rules(pin=[f"p{row}" for row in brand], max_per_brand=1))
    shown = texts_of(out["FIRST_PRODUCT_ID"])
    assert shown[:3] == [f"p{row}" for row in brand]
    others = store.brand[[int(text[1:]) for text in shown[3:] if text]].tolist()
    assert 2 not in others
    assert len(set(others)) == len(others)


def test_pins_show_what_was_measured(shop: Path) -> None:
    out = search(shop, "green tea", RULES=rules(pin=["p45", "p0"], exclude={"categories": ["grocery > snacks"]}))
    assert texts_of(out["FIRST_PRODUCT_ID"])[:2] == ["p45", "p0"]
    assert out["FIRST_SIGNALS"][0, SIGNALS.index("relevance")] > 0.5
    assert (out["FIRST_SIGNALS"][:3, SIGNALS.index("pinned")] == [1, 1, 0]).all()


def test_boost_and_bury_change_the_order(shop: Path) -> None:
    plain = search(shop, "lamp")
    first, second = texts_of(plain["FIRST_PRODUCT_ID"])[:2]
    buried = search(shop, "lamp", RULES=rules(bury={f"product:{first}": 0.1}))
    assert texts_of(buried["FIRST_PRODUCT_ID"])[0] == second
    boosted = search(shop, "lamp", RULES=rules(boost={"category:grocery > drinks": 50}))
    row = int(texts_of(boosted["FIRST_PRODUCT_ID"])[0][1:])
    assert row // 8 == 5
    np.testing.assert_allclose(boosted["FIRST_SIGNALS"][0, SIGNALS.index("rule")], 50)


def test_required_themes_are_on_the_page(shop: Path) -> None:
    out = storefront(shop, RULES=rules(required_themes=["Apple juice morning", "Card game night"]))
    assert texts_of(out["THEME_OUT"])[:2] == ["Apple juice morning", "Card game night"]


def test_a_catalogue_smaller_than_the_page(shop: Path) -> None:
    sizes = {"PLACEMENTS": np.array([16], np.int32), "PRODUCTS": np.array([100], np.int32)}
    out = storefront(shop, **sizes)
    check_page(out)
    assert out["PRODUCT_ID"].shape == (16, 100)
    assert json_of(out["STATUS"])["stages"]["fusion"]["aiqa"]["placement_short"] >= 1
    nothing = storefront(
        shop, RULES=rules(exclude={"brands": ["Norrland", "Kiefer & Co", "Blauwal", "Ostara"]}), **sizes
    )
    assert not any(texts_of(nothing["PRODUCT_ID"]))
    assert not nothing["SCORE"].any()


def test_versions(tmp_path: Path) -> None:
    manifest = {
        "catalogue": {"digest": "c0ffee"},
        "steps": {"index": {"fingerprint": "i1"}, "ranker": {"fingerprint": "r1"}},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    versions = read_versions(tmp_path)
    assert (versions["catalogue"], versions["index"], versions["ranker"]) == ("c0ffee", "i1", "r1")
    assert versions["theme_llm"] == "unknown"


def test_wrong_parameters_and_a_damaged_ranker(shop: Path, tmp_path: Path) -> None:
    engines = TinyEngines(shop)
    with pytest.raises(
        ParameterError, match=r"fusion, parameter ranker: expected greater than or equal to 0, got '-1'"
    ):
        Fusion(shop, {"ranker": "-1"}, engines)
    with pytest.raises(ParameterError, match="expected a finite number, got 'nan'"):
        Fusion(shop, {"margin": "nan"}, engines)
    zero = dict.fromkeys(("margin", "relevance", "similarity", "ranker", "popularity", "retrieval"), "0")
    with pytest.raises(ParameterError, match="at least one weight above 0"):
        Fusion(shop, zero, engines)
    build = build_shop(tmp_path / "shop")
    (build / "ranker").mkdir()
    with pytest.raises(RankerError):
        Fusion(build, {}, engines)


UNIT = st.floats(0, 1, width=32)
IDS = st.integers(0, 63).map(lambda row: f"p{row}")


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    placements, spare = draw(st.integers(1, 4)), draw(st.integers(0, 2))
    width = draw(st.integers(0, 20))
    size = (placements + spare, width)
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    rows = np.stack([rng.permutation(64)[:width] for _ in range(size[0])]).astype(np.int32)
    rows[rng.random(size) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = -1
    document = {
        "pin": draw(st.lists(IDS, max_size=5, unique=True)),
        "exclude": {
            "products": draw(st.lists(IDS, max_size=8)),
            "brands": draw(st.lists(st.sampled_from(["Norrland", "Ostara"]), max_size=1)),
            "categories": draw(st.lists(st.sampled_from(["home", "toys > games"]), max_size=1)),
        },
        "boost": draw(st.dictionaries(IDS.map(lambda name: f"product:{name}"), st.floats(1, 100), max_size=3)),
        "bury": draw(st.dictionaries(IDS.map(lambda name: f"product:{name}"), st.floats(0, 1), max_size=3)),
    }
    if cap := draw(st.integers(0, 3)):
        document["max_per_brand"] = cap
    dead = draw(st.booleans())

    def values() -> np.ndarray:
        return np.where(rows < 0, np.nan, np.nan if dead else rng.random(size)).astype(np.float32)

    similarity = np.where(rows < 0, np.nan, rng.uniform(-1, 1, size)).astype(np.float32)
    part = {"source": "computed", "ms": 1, "started_ns": 1, "finished_ns": 2}
    page = PageRequest(
        placements=placements,
        products=draw(st.integers(1, 12)),
        ticket=ticket(1000),
        rules=MerchandisingRules.model_validate_json(json.dumps(document)),
    )
    return {
        "THEMES": Themes(titles=tuple(f"Theme {index}" for index in range(size[0]))).tensor(),
        "ROW": rows,
        "MEASURED": np.stack([values(), values(), similarity, values()], axis=-1),
        "PAGE": carried(part, page.json_text()),
        "RERANK_STATUS": carried(part),
        "document": document,
    }


@settings(max_examples=150, deadline=None)
@given(request=requests())
def test_every_page_keeps_the_rules(fusion: Fusion, request: dict[str, Any]) -> None:
    document = request.pop("document")
    out = asyncio.run(fusion.run(request))
    check_page(out)
    store, page = fusion.store, PageRequest.read(request["PAGE"])
    placements, products = page.placements, page.products
    assert out["PRODUCT_ID"].shape == (placements, products)
    assert out["THEME_OUT"].shape == (placements,)

    def excluded(row: int) -> bool:
        exclude, path = document["exclude"], store.categories[store.category[row]]
        return (
            f"p{row}" in exclude["products"]
            or store.brands[store.brand[row]] in exclude["brands"]
            or any(path.startswith(category) for category in exclude["categories"])
            or row in OUT_OF_STOCK
        )

    pins = [name for name in document["pin"] if not excluded(int(name[1:]))]
    shown = [[int(text[1:]) for text in texts_of(row) if text] for row in out["PRODUCT_ID"]]
    assert not [row for each in shown for row in each if excluded(row)]
    leading = [f"p{row}" for row in shown[0][: len(pins)]]
    assert leading == pins[:products]
    for each in shown:
        brands = [store.brand[row] for row in each if f"p{row}" not in pins]
        assert max((brands.count(brand) for brand in brands), default=0) <= document.get("max_per_brand", products)
    assert all(isinstance(value, bytes) for value in out["PRODUCT_ID"].reshape(-1))
    assert set(PAGE) <= set(out)


def test_what_the_session_asks_for_leads_with_what_search_finds(shop: Path) -> None:
    session = bytes_tensor(["herb seeds", "wool rug"])
    out = storefront(shop, SESSION=session, HISTORY=bytes_tensor(["p0", "p2"]), PRODUCTS=np.array([4], np.int32))
    check_page(out)
    placements = json_of(out["STATUS"])["placements"]
    assert [each["source"] for each in placements[:2]] == ["session", "session"]
    for place, query in enumerate(("wool rug", "herb seeds")):
        found = search(shop, query, PRODUCTS=np.array([4], np.int32))
        assert texts_of(out["PRODUCT_ID"][place])[0] == texts_of(found["FIRST_PRODUCT_ID"])[0]


def test_status_says_where_each_placement_comes_from(shop: Path) -> None:
    out = storefront(shop, HISTORY=bytes_tensor(["p0", "p2"]), RULES=rules(required_themes=["Our sale"]))
    placements = json_of(out["STATUS"])["placements"]
    assert len(placements) == len([title for title in texts_of(out["THEME_OUT"]) if title])
    assert placements[0]["source"] == "required"
    assert {each["source"] for each in placements} <= {"required", "generated", "category", "classic:popular"}
    assert {each.get("keywords") for each in placements if each["source"] == "generated"} <= {"ranked", "nearest"}
    assert "placements" not in json_of(search(shop, "wool rug")["STATUS"])


def test_weights_of_a_cross_encoder_that_is_not_installed_go_to_cosine_and_words() -> None:
    search = np.array([0.3, 0.3, 0.2, 0.1, 0.0, 0.05, 0.05])
    assert blend_weights(search, judged=True).tolist() == search.tolist()
    np.testing.assert_allclose(blend_weights(search, judged=False), [0, 0, 0.6, 0.3, 0, 0.05, 0.05])
    placement = np.array([0.3, 0.3, 0.2, 0.0, 0.1, 0.05, 0.05])
    np.testing.assert_allclose(blend_weights(placement, judged=False), [0, 0, 0.8, 0, 0.1, 0.05, 0.05])
    alone = np.array([0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert blend_weights(alone, judged=False).tolist() == [0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("by", ["keywords", "kind"])
def test_products_that_a_theme_is_about_fit_whatever_the_cross_encoder_says(shop: Path, by: str) -> None:
    """With a floor that no relevance reaches, nothing else fits."""
    drafts = (ThemeDraft("Rugs at last", ("rugs",)), ThemeDraft("Lamps at last", ("lamps",)))
    engines = TinyEngines(shop, {"theme_llm": theme_completion(drafts)})
    stages = [stage(shop, {}, engines) for stage in (Retrieval, Theme, Keywords, Rerank)]
    strict = Fusion(shop, {"relevance_floor": "1", "least_products": "1", "most_classic": "0"}, engines)

    async def run() -> Tensors:
        tensors = {"BUDGET_MS": AMPLE_MS, "HISTORY": bytes_tensor(["p0", "p9"]), "PLACEMENTS": np.array([2], np.int32)}
        for stage in stages:
            tensors |= await stage.run(tensors)
        if by == "kind":
            known = KeywordRows.read(tensors["KEYWORDS"])
            tensors["KEYWORDS"] = KeywordRows.of(np.full((len(known.rows), known.width), -1, np.int32)).tensor()
        return tensors | await strict.run(tensors)

    out = asyncio.run(run())
    assert texts_of(out["THEME_OUT"]) == ["Rugs at last", "Lamps at last"]
    aiqa = json_of(out["STATUS"])["stages"]["fusion"].get("aiqa", {})
    assert "placement_below_floor" not in aiqa, "the products of the theme fit"
    for kind, ids in zip(("rugs", "lamps"), out["PRODUCT_ID"], strict=True):
        rows = strict.store.product_ids.find([text for text in texts_of(ids) if text])
        assert len(rows)
        assert set(strict.kinds.labels(rows)) == {kind}


def test_what_a_shadow_answers_is_in_no_exposure(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "exposures"
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    for mode in ("shadow", "split"):
        announced = {"generation": "1", "mode": mode, "share": 0.5, "models": {}}
        (tmp_path / TRIAL).write_text(json.dumps(announced), encoding="utf-8")
        answer = json_of(search(shop, "lamp")["STATUS"])
    wait_for(lambda: folder.is_dir() and read_exposures(folder).num_rows, "the record of the answer that is shown")
    assert read_exposures(folder).column("page_id").to_pylist() == [answer["page_id"]]
