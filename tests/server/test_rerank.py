import asyncio
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from endcap_server.declared.tensors import Tensors, texts_of
from endcap_server.shop.kinds import Kinds
from endcap_server.shop.postings import Postings, PostingsMeta
from endcap_server.shop.rules import MerchandisingRules
from endcap_server.shop.store import ItemStore
from endcap_server.stages.documents import AnsweredSearch, KeywordRows, PageRequest, PlacementSource, Themes
from endcap_server.stages.page import MEASURED
from endcap_server.stages.rerank import Rerank, mix
from endcap_server.stages.status import part_of
from hypothesis import given
from hypothesis import strategies as st
from tickets import ticket
from tiny_shop import THEMES, TinyEngines, build_shop, embed, product_titles

OUT_OF_STOCK = (0, 41)
TITLES = np.stack([embed(title) for title in product_titles()])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shop(tmp_path_factory.mktemp("shop"), OUT_OF_STOCK)


def answer(
    shop: Path,
    themes: tuple[tuple[str, tuple[str, ...]], ...] = tuple((theme.title, theme.concepts) for theme in THEMES[:3]),
    candidates: tuple[int, ...] = (2, 3, 40, 42, 60),
    broken: dict[str, str] | None = None,
    budget_ms: float = 2000,
    search: bool = False,
    parameters: dict[str, str] | None = None,
    products: int = 4,
    concepts: tuple[tuple[str, ...], ...] = (),
    sources: tuple[PlacementSource, ...] = (),
    searches: tuple[AnsweredSearch, ...] = (),
    **rules: object,
) -> tuple[Tensors, dict, TinyEngines]:
    engines = TinyEngines(shop, broken)
    keyword_rows = np.full((len(themes), 5), -1, np.int32)
    for row, (_, keywords) in enumerate(themes):
        keyword_rows[row, : len(keywords)] = engines.store.keywords.find(list(keywords))
    query = embed(themes[0][0]) if search else np.zeros(96, np.float32)
    stage = Rerank(shop, parameters or {"pairs_per_placement": "12", "search_pairs": "16"}, engines)
    page = PageRequest(
        placements=0 if search else len(themes),
        products=products,
        ticket=ticket(budget_ms),
        rules=MerchandisingRules.model_validate_json(json.dumps(rules)),
        searches=searches,
    )
    out = asyncio.run(
        stage.run(
            {
                "THEMES": Themes(
                    titles=tuple(theme for theme, _ in themes), concepts=concepts, sources=sources
                ).tensor(),
                "KEYWORDS": KeywordRows.of(keyword_rows).tensor(),
                "CANDIDATE_ROW": np.array(candidates, np.int32),
                "CANDIDATE_LEXICAL": np.linspace(1, 0, len(candidates), dtype=np.float32),
                "CANDIDATE_SIMILARITY": engines.store.vectors[list(candidates)].astype(np.float32) @ query,
                "PAGE": page.tensor(),
            }
        )
    )
    return out, part_of(out["RERANK_STATUS"]), engines


def measured(out: Tensors, name: str) -> np.ndarray:
    return out["MEASURED"][..., MEASURED.index(name)]


def test_products_of_the_keywords_and_of_the_shopper(shop: Path) -> None:
    out, status, engines = answer(shop)
    rows = out["ROW"]
    assert rows.shape[0] == 3
    assert rows.shape[1] <= 12
    # "desk lamp" and "floor lamp" are products 0, 4 and 1, 5; 2 and 3 are the shopper's own lamps; 0 is sold out.
    assert {1, 4, 5, 2, 3} <= set(rows[0].tolist())
    assert not set(OUT_OF_STOCK) & set(rows.reshape(-1).tolist())
    for row in rows:
        given = row[row >= 0].tolist()
        assert len(set(given)) == len(given)
    assert out["MEASURED"].dtype == np.float32
    assert out["MEASURED"].shape == (*rows.shape, 4)
    assert np.isnan(out["MEASURED"][rows < 0]).all()
    assert not np.isnan(out["MEASURED"][rows >= 0][:, :3]).any()
    assert np.isnan(measured(out, "lexical")).all()
    assert status["source"] == "computed"
    assert status["pairs"] == int((rows >= 0).sum())
    text = next(inputs["TEXT"] for name, inputs in engines.calls if name == "cross_encoder")
    assert texts_of(text)[0] == "Light up the evening: desk lamp, floor lamp"
    assert [name for name, _ in engines.calls] == ["cross_encoder", "nearest"]


def test_excluded_products_are_never_scored(shop: Path) -> None:
    out, _, engines = answer(shop, exclude={"brands": ["Norrland"], "products": ["p1"]})
    given = out["ROW"][out["ROW"] >= 0]
    assert 1 not in given
    assert not (engines.store.brand[given] == 0).any()


def test_what_an_exclusion_takes_from_a_theme_comes_from_the_nearest_products(shop: Path) -> None:
    exclude = {"categories": ["home > lamps", "home > rugs", "toys"]}
    out, _, engines = answer(
        shop, themes=(("Light up the evening", ("desk lamp",)),), candidates=(), products=12, exclude=exclude
    )
    given = out["ROW"][0][out["ROW"][0] >= 0]
    assert len(given) >= 12
    assert not np.isin(engines.store.category[given], [0, 1, 6, 7]).any()


@pytest.mark.parametrize("failure", ["dead", "late"])
def test_without_the_cross_encoder_retrievals_order(shop: Path, failure: str) -> None:
    healthy = answer(shop)[0]
    out, status, _ = answer(shop, broken={"cross_encoder": failure}, budget_ms=800)
    assert out["ROW"].tolist() == healthy["ROW"].tolist()
    assert np.isnan(measured(out, "relevance")).all()
    assert np.isnan(measured(out, "margin")).all()
    assert not np.isnan(measured(out, "similarity")[out["ROW"] >= 0]).any()
    assert status["source"] == "fallback"
    assert "retrieval's order" in status["reason"]


def test_without_any_engine(shop: Path) -> None:
    out, status, _ = answer(shop, broken={"cross_encoder": "dead", "nearest": "dead"})
    assert np.isnan(measured(out, "similarity")).all()
    assert (out["ROW"] >= 0).any()
    assert "no similarity" in status["reason"]


def test_a_spent_budget(shop: Path) -> None:
    out, status, _ = answer(shop, budget_ms=-10)
    assert (out["ROW"] >= 0).any()
    assert status["source"] == "fallback"


def test_a_theme_without_keywords_finds_its_nearest_products(shop: Path) -> None:
    out, status, _ = answer(shop, themes=(("green tea", ()), ("", ())))
    assert set(out["ROW"][0][:1].tolist()) <= {45}
    assert (out["ROW"][1] == -1).all()
    assert status["source"] == "computed"
    dead, status, _ = answer(shop, themes=(("green tea", ()),), broken={"nearest": "dead"})
    assert dead["ROW"][0].tolist() == [2, 3, 40, 42, 60]
    assert "the shopper's candidates" in status["reason"]


def test_nothing_to_score(shop: Path) -> None:
    out, status, engines = answer(shop, themes=(("tea", ()),), candidates=(), broken={"nearest": "dead"})
    assert out["ROW"].shape == (1, 0)
    assert not [name for name, _ in engines.calls if name == "cross_encoder"]
    assert status["pairs"] == 0


def test_a_search(shop: Path) -> None:
    themes = (("green tea", ("green tea",)),)
    out, status, engines = answer(shop, themes=themes, candidates=(45, 40, 42, 43, 44), search=True)
    assert out["ROW"][0, 0] == 45
    assert {40, 42, 43, 44} <= set(out["ROW"][0].tolist())
    text = next(inputs["TEXT"] for name, inputs in engines.calls if name == "cross_encoder")
    assert texts_of(text) == ["green tea"]
    assert [name for name, _ in engines.calls] == ["cross_encoder"]
    given = out["ROW"][0] >= 0
    expected = engines.store.vectors[out["ROW"][0][given]].astype(np.float32) @ embed("green tea")
    np.testing.assert_allclose(measured(out, "similarity")[0][given], expected, atol=2e-3)
    matched = dict(zip((45, 40, 42, 43, 44), np.linspace(1, 0, 5).tolist(), strict=True))
    assert measured(out, "lexical")[0][given].tolist() == [matched.get(row, 0.0) for row in out["ROW"][0][given]]
    assert status["source"] == "computed"


def test_a_search_without_keywords_or_candidates(shop: Path) -> None:
    out, _, _ = answer(shop, themes=(("zzz", ()),), candidates=(45, 40), search=True)
    assert out["ROW"].tolist() == [[45, 40]]
    empty, _, _ = answer(shop, themes=(("zzz", ()),), candidates=(), search=True)
    assert empty["ROW"].shape == (1, 0)


@given(
    first=st.lists(st.integers(0, 30), unique=True),
    second=st.lists(st.integers(0, 30), unique=True),
    share=st.floats(0, 1),
    count=st.integers(0, 40),
)
def test_mix_keeps_both_orders_and_leaves_no_place_empty(
    first: list[int], second: list[int], share: float, count: int
) -> None:
    mixed = mix(first, second, share, count)
    assert len(mixed) == len(set(mixed)) == min(count, len({*first, *second}))
    assert set(mixed) <= {*first, *second}
    only_first = [row for row in mixed if row not in second]
    assert only_first == [row for row in first if row in only_first]


def test_mix_by_share() -> None:
    assert mix([1, 2, 3, 4, 5, 6], [11, 12, 13], 1 / 3, 9) == [1, 2, 11, 3, 4, 12, 5, 6, 13]


def test_candidates_of_the_kinds_that_a_theme_names(shop: Path) -> None:
    themes = (("Something for the evening", ("desk lamp",)),)
    stage_parameters = {"pairs_per_placement": "12", "search_pairs": "16", "personal_floor": "1"}
    by_keywords, _, _ = answer(shop, themes, candidates=(9, 10), parameters=stage_parameters)
    by_kind, _, _ = answer(shop, themes, candidates=(9, 10), parameters=stage_parameters, concepts=(("rugs",),))
    assert not {9, 10} & set(by_keywords["ROW"].reshape(-1).tolist())
    assert {9, 10} <= set(by_kind["ROW"].reshape(-1).tolist()), "rugs are no lamps, and the theme is about rugs too"


def test_a_product_of_a_named_kind_is_compared_with_the_name_of_the_kind(shop: Path) -> None:
    """ "Lamps and rugs" is no text about a rug; two themes that name a kind share its pairs."""
    themes = (("Lamps and rugs", ("desk lamp",)), ("Time for rugs", ("floor lamp",)))
    out, status, engines = answer(
        shop, themes, candidates=(9, 10, 2), concepts=(("lamps", "rugs"), ("rugs",)), parameters={"personal_floor": "1"}
    )
    asked = next(inputs for name, inputs in engines.calls if name == "cross_encoder")
    rows_of = dict(zip(texts_of(asked["TEXT"]), asked["ROW"], strict=True))
    assert {9, 10} <= set(rows_of["rugs"].tolist())
    assert not {9, 10} & {row for text, rows in rows_of.items() if text != "rugs" for row in rows.tolist()}
    pairs = [row for rows in rows_of.values() for row in rows[rows >= 0].tolist()]
    assert len(pairs) < status["pairs"], "rugs stand in both placements and are scored once"
    for place in range(2):
        for row, relevance in zip(out["ROW"][place], measured(out, "relevance")[place], strict=True):
            if row in (9, 10):
                logit = 8 * engines.store.vectors[row].astype(np.float32) @ embed("rugs") - 2
                assert relevance == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-4)
            assert np.isnan(relevance) == (row < 0)


@pytest.fixture(scope="module")
def posted_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with postings: of each keyword its first two products, and of the products of every second kind."""
    build = build_shop(tmp_path_factory.mktemp("posted"), OUT_OF_STOCK)
    store = ItemStore.open(build)
    kinds = Kinds.open(build, store)
    rows = np.asarray(store.keyword_products[:, :2])
    logits = np.array([[logit(embed(store.keywords[line]), row) for row in own] for line, own in enumerate(rows)])
    of_kind = [logit(embed(kinds.names[kind]), row) for row, kind in enumerate(kinds.of_product.tolist())]
    of_kind = np.where(kinds.of_product % 2 == 1, of_kind, np.nan)
    postings = Postings(
        rows, logits.astype(np.float16), of_kind.astype(np.float16), PostingsMeta(temperature=1, slope=8, offset=-2)
    )
    postings.write(build / "postings")
    return build


def logit(text: np.ndarray, row: int) -> float:
    """The tiny cross-encoder's, and exactly what is estimated from a cosine."""
    return 8 * float(text @ TITLES[row]) - 2


POSTED = {"pairs_per_placement": "12", "personal_floor": "1"}


def scored(engines: TinyEngines) -> dict[str, set[int]]:
    """The pairs that the cross-encoder was asked for."""
    asked = [inputs for name, inputs in engines.calls if name == "cross_encoder"]
    pairs = [pair for inputs in asked for pair in zip(texts_of(inputs["TEXT"]), inputs["ROW"].tolist(), strict=True)]
    return {text: {row for row in rows if row >= 0} for text, rows in pairs}


def test_pairs_with_a_posting_are_not_scored_again(posted_shop: Path) -> None:
    """The others are scored with the nearest keyword of their placement, or with the name of their kind."""
    themes = (("Lamps and rugs", ("desk lamp", "floor lamp")),)
    options = {"themes": themes, "candidates": (9, 10, 2), "concepts": (("lamps", "rugs"),)}
    out, status, engines = answer(posted_shop, parameters=POSTED, **options)
    given = out["ROW"][0] >= 0
    posted = {1, 4, 5, 9, 10}
    assert posted < set(out["ROW"][0][given].tolist())
    asked = scored(engines)
    assert asked
    assert not posted & set().union(*asked.values())
    assert set(asked) <= {"lamps", "desk lamp", "floor lamp"}
    online = sum(len(rows) for rows in asked.values())
    assert status["relevance_from"] == {"postings": int(given.sum()) - online, "online": online, "estimated": 0}
    relevance = dict(zip(out["ROW"][0].tolist(), measured(out, "relevance")[0].tolist(), strict=True))
    for row in (9, 10):
        assert relevance[row] == pytest.approx(1 / (1 + np.exp(-logit(embed("rugs"), row))), abs=1e-3)
    assert not np.isnan(out["MEASURED"][0][given][:, :3]).any()


@pytest.mark.parametrize(("online_pairs", "failure"), [("0", ""), ("3", ""), ("64", "dead"), ("64", "late")])
def test_pairs_beyond_the_budget_are_estimated(posted_shop: Path, online_pairs: str, failure: str) -> None:
    themes = (("Light up the evening", ("desk lamp", "floor lamp")), ("Soft underfoot", ("wool rug",)))
    out, status, engines = answer(
        posted_shop,
        themes=themes,
        parameters={**POSTED, "online_pairs": online_pairs},
        broken={"cross_encoder": failure} if failure else None,
        budget_ms=800,
    )
    given = out["ROW"] >= 0
    counts = status["relevance_from"]
    assert sum(counts.values()) == status["pairs"] == int(given.sum())
    assert counts["estimated"] > 0
    assert counts["online"] == (0 if failure else int(online_pairs))
    assert bool(scored(engines)) == (online_pairs != "0")
    relevance = measured(out, "relevance")
    assert not np.isnan(relevance[given]).any()
    for line, keywords in enumerate(keywords for _, keywords in themes):
        for row, value in zip(out["ROW"][line].tolist(), relevance[line].tolist(), strict=True):
            best = max((logit(embed(keyword), row) for keyword in keywords), default=0.0)
            if row >= 0 and counts["online"] == 0:
                assert value <= 1 / (1 + np.exp(-best)) + 1e-3
    assert status["source"] == ("fallback" if failure else "computed")
    assert ("estimated from similarity" in status.get("reason", "")) == bool(failure)


def test_postings_that_are_switched_off_change_nothing(shop: Path, posted_shop: Path) -> None:
    without, before, engines = answer(shop)
    off, status, same = answer(
        posted_shop, parameters={"pairs_per_placement": "12", "search_pairs": "16", "online_pairs": "-1"}
    )
    for name in ("ROW", "MEASURED"):
        np.testing.assert_array_equal(without[name], off[name])
    assert scored(engines) == scored(same)
    assert "relevance_from" not in status
    assert "relevance_from" not in before


def test_a_cross_encoder_that_is_not_installed_has_no_postings(posted_shop: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    shutil.copytree(posted_shop, build)
    (build / "gates").mkdir()
    verdict = {"cross_encoder": {"installed": False, "serves": "bi-encoder"}}
    (build / "gates/gates.json").write_text(json.dumps(verdict))
    out, status, engines = answer(build)
    assert np.isnan(measured(out, "relevance")).all()
    assert "relevance_from" not in status
    assert not scored(engines)


def test_a_search_of_the_session_uses_the_postings_of_a_keyword_that_says_the_same(posted_shop: Path) -> None:
    said = {}
    for text in ("green tea", "evening tea"):
        rows = tuple(int(row) for row in np.argsort(-(TITLES @ embed(text)))[:6])
        search = AnsweredSearch(text=text, rows=rows, similarity=(0.5,) * 6, lexical=(0.5,) * 6)
        out, status, engines = answer(
            posted_shop,
            themes=((text, ()),),
            concepts=((text,),),
            sources=(PlacementSource.SESSION,),
            searches=(search,),
        )
        assert out["ROW"][0].tolist() == list(rows)
        said[text] = status["relevance_from"]["postings"]
        assert set(scored(engines)) == {text}
    assert said == {"green tea": 2, "evening tea": 0}


def test_a_search_that_says_what_a_keyword_says_uses_its_postings(shop: Path, posted_shop: Path) -> None:
    themes = ((" Green  TEA", ("green tea",)),)
    options = {"themes": themes, "candidates": (45, 40, 41, 42, 43), "search": True}
    without, _, before = answer(shop, **options)
    out, status, engines = answer(posted_shop, **options)
    assert out["ROW"].tolist() == without["ROW"].tolist()
    # The tiny engine's margin counts a product against itself.
    np.testing.assert_allclose(out["MEASURED"][..., 1:], without["MEASURED"][..., 1:], atol=2e-3)
    order = np.argsort(measured(out, "margin")[0])
    assert order.tolist() == np.argsort(measured(without, "margin")[0]).tolist()
    (all_rows,), (rows,) = scored(before).values(), scored(engines).values()
    assert rows < all_rows
    assert status["relevance_from"] == {"postings": 2, "online": len(rows), "estimated": 0}
    _, status, engines = answer(posted_shop, **{**options, "themes": (("evening tea", ("green tea",)),)})
    assert set(scored(engines)) == {"evening tea"}
    assert "relevance_from" not in status
