import asyncio
from pathlib import Path

import numpy as np
import pytest
from endcap_server.declared.tensors import Tensors, bytes_tensor, json_of, texts_of
from endcap_server.stages import first_cut
from endcap_server.stages.fusion import Fusion
from endcap_server.stages.page import BLENDED, SIGNALS
from endcap_server.stages.rerank import Rerank
from endcap_server.stages.retrieval import Retrieval
from hypothesis import given
from hypothesis import strategies as st
from test_fusion import check_page, rules
from tiny_shop import TinyEngines, build_shop

RELEVANCE, MARGIN = SIGNALS.index("relevance"), SIGNALS.index("margin")
EVERYTHING = np.array([64], np.int32)
"""All products of the shop."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(autouse=True)
def _run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDCAP_RUN_DIR", str(tmp_path))


def search(
    shop: Path,
    cut: int,
    query: str = "green tea",
    broken: dict[str, str] | None = None,
    fusion: dict[str, str] | None = None,
    **inputs: np.ndarray,
) -> tuple[Tensors, list[int]]:
    """The search's tensors, and the products that the cross-encoder was asked for."""
    engines = TinyEngines(shop, broken)

    async def run() -> Tensors:
        asked = {"QUERY": bytes_tensor([query]), "BUDGET_MS": np.array([30_000], np.int32), "PRODUCTS": EVERYTHING}
        tensors = await Retrieval(shop, {}, engines).run(asked | inputs)
        tensors |= {"THEMES": tensors["QUERY_THEMES"], "KEYWORDS": tensors["QUERY_KEYWORDS"]}
        tensors |= await Rerank(shop, {"search_cut": str(cut)}, engines).run(tensors)
        return tensors | await Fusion(shop, fusion or {}, engines).run(tensors)

    out = asyncio.run(run())
    check_page(out)
    rows = [inputs["ROW"] for name, inputs in engines.calls if name == "cross_encoder"]
    return out, rows[0][rows[0] >= 0].tolist() if rows else []


def shown(out: Tensors) -> list[str]:
    return [text for text in texts_of(out["FIRST_PRODUCT_ID"]) if text]


@pytest.mark.parametrize("cut", [4, 12, 40])
def test_the_cross_encoder_reads_the_first_and_the_others_stay_below(shop: Path, cut: int) -> None:
    whole, everything = search(shop, 0)
    out, read = search(shop, cut)
    assert read == whole["ROW"][0, :cut].tolist() == everything[:cut]
    assert out["ROW"].tolist() == whole["ROW"].tolist()
    assert set(shown(out)) == set(shown(whole)), "nothing is lost"
    assert len(shown(out)) == 64
    assert set(shown(out)[:cut]) == {f"p{row}" for row in read}
    assert json_of(out["STATUS"])["stages"]["rerank"]["pairs"] == cut
    assert out["FIRST_SIGNALS"][:cut, RELEVANCE].all()
    assert not out["FIRST_SIGNALS"][cut:, [RELEVANCE, MARGIN]].any()
    score = out["FIRST_SCORE"]
    assert score[cut] < score[cut - 1]
    assert (score > 0).all()


def test_the_others_have_the_order_of_a_build_without_cross_encoder(shop: Path) -> None:
    out, _ = search(shop, 8, "lamp")
    weights = Fusion(shop, {}, TinyEngines(shop)).unread
    known = np.nan_to_num(out["FIRST_SIGNALS"][8:, :BLENDED]).astype(np.float64)
    estimate = known @ np.where(np.arange(BLENDED) == SIGNALS.index("ranker"), 0, weights)
    assert (np.diff(estimate) <= 1e-6).all()
    assert weights[[RELEVANCE, MARGIN]].tolist() == [0, 0]


@pytest.mark.parametrize("cut", [0, 64, 1024])
def test_a_cut_that_reads_all_is_none(shop: Path, cut: int) -> None:
    whole, everything = search(shop, 0)
    out, read = search(shop, cut)
    assert read == everything
    assert len(read) == 64
    for name in ("FIRST_PRODUCT_ID", "FIRST_SCORE", "FIRST_SIGNALS", "MEASURED", "ROW"):
        assert np.array_equal(out[name], whole[name], equal_nan=out[name].dtype == np.float32)


@pytest.mark.parametrize("failure", ["dead", "late"])
def test_without_the_cross_encoder_a_cut_changes_nothing(shop: Path, failure: str) -> None:
    budget = {"BUDGET_MS": np.array([1500], np.int32)}
    whole, _ = search(shop, 0, broken={"cross_encoder": failure}, **budget)
    out, _ = search(shop, 4, broken={"cross_encoder": failure}, **budget)
    assert shown(out) == shown(whole)
    assert out["FIRST_SCORE"].tolist() == whole["FIRST_SCORE"].tolist()
    assert json_of(out["STATUS"])["degraded"]


def test_what_a_rule_lifts_is_read_and_what_it_buries_is_not(shop: Path) -> None:
    drinks = [f"p{row}" for row in range(40, 48)]
    plain, read = search(shop, 8, "lamp")
    assert not {f"p{row}" for row in read} & set(drinks)
    lifted, read = search(shop, 8, "lamp", RULES=rules(boost={"category:grocery > drinks": 50}))
    assert [f"p{row}" for row in read if 40 <= row < 48]
    assert shown(lifted)[0] in drinks
    _, read = search(shop, 8, "lamp", RULES=rules(bury={f"product:{shown(plain)[0]}": 0.01}))
    assert shown(plain)[0] not in {f"p{row}" for row in read}


def test_a_floor_leaves_what_was_not_read_out(shop: Path) -> None:
    out, read = search(shop, 8, fusion={"search_relevance_floor": "0.01"})
    assert shown(out)
    assert set(shown(out)) <= {f"p{row}" for row in read}


@given(
    signals=st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), max_size=30),
)
def test_scores_are_finite_and_in_order(signals: list[tuple[bool, float, float, float]]) -> None:
    table = np.full((len(signals), BLENDED), np.nan, np.float32)
    score = np.zeros(len(signals), np.float32)
    for row, (read, relevance, similarity, retrieval) in enumerate(signals):
        table[row, SIGNALS.index("similarity")], table[row, SIGNALS.index("retrieval")] = similarity, retrieval
        if read:
            table[row, [RELEVANCE, MARGIN]] = relevance
            score[row] = relevance
    weights = np.zeros(BLENDED)
    weights[[SIGNALS.index("similarity"), SIGNALS.index("retrieval")]] = 0.8, 0.2
    placed = first_cut.below(score, table, weights)
    assert placed.dtype == np.float32
    assert np.isfinite(placed).all()
    assert (placed >= 0).all()
    later = first_cut.unread(table)
    assert placed[~later].tolist() == score[~later].tolist()
    if later.any():
        assert placed[later].max() <= score[~later].min()


@given(factors=st.lists(st.floats(0, 100), max_size=30), count=st.integers(0, 40))
def test_the_cut_has_its_size_and_follows_the_factors(factors: list[float], count: int) -> None:
    read = first_cut.chosen(np.array(factors, np.float32), count)
    assert read.sum() == (min(count, len(factors)) if count else len(factors))
    equal = first_cut.chosen(np.ones(len(factors)), count)
    assert equal[: int(equal.sum())].all()
