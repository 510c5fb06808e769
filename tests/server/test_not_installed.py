"""A model that a build did not install: the simple thing serves in its place, and nothing counts as degraded."""

import json
from pathlib import Path

import numpy as np
import pytest
from endcap_server.declared.tensors import bytes_tensor, json_of, texts_of
from endcap_server.shop.gates import GatesError, is_installed, read_verdicts
from endcap_server.stages.fusion import Fusion
from endcap_server.stages.page import SIGNALS
from endcap_server.stages.status import read_versions
from test_fusion import check_page, search, storefront
from tiny_shop import TinyEngines, build_shop

SIMPLE = {
    "cross_encoder": "cosine of the bi-encoder",
    "theme_llm": "themes of categories",
    "keyword_llm": "nearest keywords",
    "ranker": "order 'half'",
}


@pytest.fixture(autouse=True)
def _run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDCAP_RUN_DIR", str(tmp_path))


def shop_without(folder: Path, *models: str) -> Path:
    build = build_shop(folder)
    (build / "gates").mkdir()
    verdicts = {name: {"installed": name not in models, "serves": SIMPLE[name]} for name in SIMPLE}
    (build / "gates/gates.json").write_text(json.dumps(verdicts), encoding="utf-8")
    return build


def signal(out: np.ndarray, name: str) -> np.ndarray:
    return out[..., SIGNALS.index(name)]


def test_a_page_of_simple_things(tmp_path: Path) -> None:
    shop = shop_without(tmp_path / "shop", *SIMPLE)
    page = storefront(shop, HISTORY=bytes_tensor(["p0", "p2", "p40"]), PRODUCTS=np.array([5], np.int32))
    check_page(page)
    status = json_of(page["STATUS"])
    assert status["degraded"] == []
    assert {part["source"] for part in status["stages"].values()} == {"computed"}
    assert status["stages"]["theme"]["generated_themes"] == 0
    assert all(texts_of(page["THEME_OUT"]))
    assert all(texts_of(page["KEYWORDS_OUT"][:, 0]))
    assert {name: status["versions"][name] for name in SIMPLE} == {
        name: f"not installed: {simple}" for name, simple in SIMPLE.items()
    }


@pytest.mark.parametrize("model", ["cross_encoder", "theme_llm", "keyword_llm"])
def test_no_request_reaches_a_model_that_is_not_installed(tmp_path: Path, model: str) -> None:
    shop = shop_without(tmp_path / "shop", model)
    page = storefront(shop, broken={model: "dead"}, HISTORY=bytes_tensor(["p0", "p2"]))
    assert json_of(page["STATUS"])["degraded"] == []


def test_the_cosine_takes_the_weight_of_the_cross_encoder(tmp_path: Path) -> None:
    shop = shop_without(tmp_path / "shop", "cross_encoder")
    fusion, installed = (Fusion(build, {}, TinyEngines(build)) for build in (shop, build_shop(tmp_path / "other")))
    for is_search in (False, True):
        mine, theirs = (each.weights[is_search] for each in (fusion, installed))
        assert mine.sum() == pytest.approx(theirs.sum())
        assert signal(mine, "relevance") == signal(mine, "margin") == 0
        assert signal(mine, "similarity") > signal(theirs, "similarity")
    found = search(shop, "desk lamp")
    assert texts_of(found["PRODUCT_ID"][0])[0] in {"p0", "p4"}


def test_a_ranker_that_is_not_installed_is_not_opened(tmp_path: Path) -> None:
    shop = shop_without(tmp_path / "shop", "ranker")
    (shop / "ranker").mkdir()
    (shop / "ranker/ranker.json").write_text("damaged", encoding="utf-8")
    page = storefront(shop, HISTORY=bytes_tensor(["p0"]))
    check_page(page)
    assert not signal(page["SIGNALS"], "ranker").any()
    assert json_of(page["STATUS"])["degraded"] == []


def test_what_a_build_says(tmp_path: Path) -> None:
    assert is_installed(tmp_path, "ranker"), "a build without the step has installed all"
    assert read_versions(tmp_path)["ranker"] == "unknown"
    shop_without(tmp_path / "shop", "ranker")
    assert not is_installed(tmp_path / "shop", "ranker")
    assert is_installed(tmp_path / "shop", "theme_llm")
    (tmp_path / "shop/gates/gates.json").write_text('{"ranker": {}}', encoding="utf-8")
    with pytest.raises(GatesError, match=r"gates\.json: expected what is installed, .* run endcap build gates"):
        read_verdicts(tmp_path / "shop")
