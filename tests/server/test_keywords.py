import asyncio
from pathlib import Path

import numpy as np
import pytest
from endcap_server.declared.tensors import Tensors, texts_of
from endcap_server.shop.prompts import ThemeDraft, listed_candidates
from endcap_server.stages.documents import KeywordRows, Themes
from endcap_server.stages.keywords import Keywords
from endcap_server.stages.status import part_of
from tickets import ticket, ticketed
from tiny_shop import THEMES, TinyEngines, build_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(autouse=True)
def _run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDCAP_RUN_DIR", str(tmp_path))


def answer(
    shop: Path,
    broken: dict[str, str] | None = None,
    budget_ms: int = 2000,
    parameters: dict[str, str] | None = None,
    count: int = 3,
) -> tuple[Tensors, dict, TinyEngines]:
    engines = TinyEngines(shop, broken)
    drafts = [*THEMES[:count], ThemeDraft("", ())]
    themes = Themes(
        titles=tuple(each.title for each in drafts),
        concepts=tuple(each.concepts for each in drafts),
    )
    stage = Keywords(shop, parameters or {"candidates": "12"}, engines)
    out = asyncio.run(stage.run({"THEMES": ticketed(themes, ticket(budget_ms))}))
    return out, part_of(out["KEYWORDS"]), engines


def rows_of(out: Tensors) -> np.ndarray:
    return KeywordRows.read(out["KEYWORDS"]).array


def texts(engines: TinyEngines, rows: np.ndarray) -> list[str]:
    """The keywords of a theme, "" where there is none."""
    return [engines.store.keywords[row] if row >= 0 else "" for row in rows.tolist()]


def test_keywords_of_the_llm(shop: Path) -> None:
    out, status, engines = answer(shop)
    rows = rows_of(out)
    assert rows.shape == (4, 5)
    assert texts(engines, rows_of(out)[0])[:2] == ["desk lamp", "floor lamp"]
    assert texts(engines, rows_of(out)[2])[:2] == ["garden spade", "tomato seeds"]
    for row in range(3):
        chosen = rows[row][rows[row] >= 0].tolist()
        assert len(set(chosen)) == len(chosen) >= 2
    assert (rows[3] == -1).all()
    assert texts(engines, rows_of(out)[3]) == [""] * 5
    assert status["source"] == "generated"
    assert "reason" not in status
    assert [name for name, _ in engines.calls] == ["nearest", "keyword_llm"]
    assert len(engines.calls[1][1]["PROMPT"]) == 3


def test_whole_answers_are_kept_and_nothing_else(shop: Path) -> None:
    engines = TinyEngines(shop, {"keyword_llm": "dead"})
    stage = Keywords(shop, {"candidates": "12"}, engines)

    def ask() -> tuple[np.ndarray, dict]:
        themes = Themes(titles=tuple(t.title for t in THEMES[:2]), concepts=tuple(t.concepts for t in THEMES[:2]))
        request = {"THEMES": ticketed(themes)}
        known = stage.recall(request)
        out = {"KEYWORDS": stage.carry(known.status(), known.document)} if known else asyncio.run(stage.run(request))
        return rows_of(out), part_of(out["KEYWORDS"])

    assert ask()[1]["source"] == "fallback"
    assert ask()[1]["source"] == "fallback"
    engines.broken.clear()
    rows, status = ask()
    assert status["source"] == "generated"
    again, kept = ask()
    assert kept["source"] == "cached"
    assert again.tolist() == rows.tolist()
    assert kept["aiqa"] == status["aiqa"]


def test_candidates_take_turns_over_the_concepts(shop: Path) -> None:
    _, _, engines = answer(shop)
    listed = listed_candidates(texts_of(engines.calls[1][1]["PROMPT"])[2])
    assert listed[:2] == ["garden spade", "tomato seeds"]
    assert len(listed) == len(set(listed)) == 12


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"keyword_llm": "dead"}, "keyword_llm: is not ready"),
        ({"keyword_llm": "late"}, "keyword_llm: no answer within its share"),
    ],
)
def test_without_the_llm_the_nearest_keywords(shop: Path, broken: dict[str, str], reason: str) -> None:
    out, status, engines = answer(shop, broken, budget_ms=600)
    assert texts(engines, rows_of(out)[0])[:2] == ["desk lamp", "floor lamp"]
    assert status["source"] == "fallback"
    assert reason in status["reason"]


def test_the_llms_order_is_the_order_of_keywords(shop: Path) -> None:
    out, _, engines = answer(shop, {"keyword_llm": "2 1"}, count=1)
    assert texts(engines, rows_of(out)[0])[:2] == ["floor lamp", "desk lamp"]


def test_a_prior_against_or_for_popular_keywords(shop: Path) -> None:
    popularity = []
    for prior in ("10", "0", "-10"):
        out, _, engines = answer(
            shop, count=1, parameters={"candidates": "12", "fit_floor": "-1", "popularity_prior": prior}
        )
        rows = rows_of(out)[0]
        popularity.append(float(engines.store.keyword_counts[rows[rows >= 0]].mean()))
    assert popularity == sorted(popularity)
    assert popularity[0] < popularity[-1]


def test_keywords_must_fit_their_theme(shop: Path) -> None:
    _, _, engines = answer(shop, count=1, parameters={"candidates": "32"})
    listed = listed_candidates(texts_of(engines.calls[1][1]["PROMPT"])[0])
    stray = listed.index("oat drink") + 1
    out, status, _ = answer(shop, {"keyword_llm": f"1 {stray}"}, count=1, parameters={"candidates": "32"})
    assert "oat drink" not in texts(engines, rows_of(out)[0])
    assert status["aiqa"]["keyword_fit"] >= 1


def test_without_any_engine_concepts_that_are_keywords(shop: Path) -> None:
    out, status, engines = answer(shop, {"nearest": "dead", "keyword_llm": "dead"})
    assert texts(engines, rows_of(out)[0]) == ["desk lamp", "floor lamp", "", "", ""]
    assert status["source"] == "fallback"
    assert status["reason"] == "nearest: is not ready"


def test_no_budget_asks_no_llm(shop: Path) -> None:
    out, status, engines = answer(shop, budget_ms=0)
    assert texts(engines, rows_of(out)[0])[0] == "desk lamp"
    assert "keyword_llm: the budget leaves it no time" in status["reason"]
    assert [name for name, _ in engines.calls] == ["nearest"]
