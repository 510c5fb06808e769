import asyncio
from pathlib import Path

import numpy as np
import pytest
from endcap_server.declared.tensors import Tensors, texts_of
from endcap_server.shop.prompts import ThemeDraft
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
    engines = TinyEngines(shop, {"keyword_llm": " 1 2\n 99\n"})
    stage = Keywords(shop, {"candidates": "12"}, engines)

    def ask() -> tuple[np.ndarray, dict]:
        themes = Themes(titles=tuple(t.title for t in THEMES[:2]), concepts=tuple(t.concepts for t in THEMES[:2]))
        request = {"THEMES": ticketed(themes)}
        known = stage.recall(request)
        out = {"KEYWORDS": stage.carry(known.status(), known.document)} if known else asyncio.run(stage.run(request))
        return rows_of(out), part_of(out["KEYWORDS"])

    assert "1 of 2 themes have the nearest keywords" in ask()[1]["reason"]
    engines.broken["keyword_llm"] = "dead"
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
    listed = texts_of(engines.calls[1][1]["PROMPT"])[2].splitlines()[1].split("|")
    assert listed[:2] == ["garden spade 1", "tomato seeds 2"]
    assert len(listed) == len(set(listed)) == 12


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"keyword_llm": "dead"}, "keyword_llm: is not ready"),
        ({"keyword_llm": "late"}, "keyword_llm: no answer within its share"),
        ({"keyword_llm": "butterproof|sorry"}, "3 of 3 themes have the nearest keywords"),
        ({"keyword_llm": "\udcff"}, "3 of 3 themes have the nearest keywords"),
    ],
)
def test_without_the_llm_the_nearest_keywords(shop: Path, broken: dict[str, str], reason: str) -> None:
    out, status, engines = answer(shop, broken, budget_ms=600)
    assert texts(engines, rows_of(out)[0])[:2] == ["desk lamp", "floor lamp"]
    assert status["source"] == "fallback"
    assert reason in status["reason"]


def test_what_is_no_candidate_is_dropped(shop: Path) -> None:
    out, status, engines = answer(shop, {"keyword_llm": " 99 1 1"}, count=1)
    assert texts(engines, rows_of(out)[0])[0] == "desk lamp"
    assert len(list(filter(None, texts(engines, rows_of(out)[0])))) == 2
    assert status["source"] == "generated"
    assert status["aiqa"] == {"not_a_candidate": 1, "keyword_added": 1}


def test_one_theme_of_several_falls_back(shop: Path) -> None:
    _, status, _ = answer(shop, {"keyword_llm": " 1 2\n 99\n"}, parameters={"candidates": "6"})
    assert status["source"] == "generated"
    assert "2 of 3 themes have the nearest keywords" in status["reason"]
    assert status["nearest_keyword_themes"] == 2


def test_keywords_must_fit_their_theme(shop: Path) -> None:
    _, _, engines = answer(shop, count=1, parameters={"candidates": "32"})
    listed = texts_of(engines.calls[1][1]["PROMPT"])[0].splitlines()[1].split("|")
    stray = next(text.rpartition(" ")[2] for text in listed if text.startswith("oat drink"))
    out, status, _ = answer(shop, {"keyword_llm": f" 1 {stray}"}, count=1, parameters={"candidates": "32"})
    assert "oat drink" not in texts(engines, rows_of(out)[0])
    assert status["aiqa"]["keyword_fit"] == 1


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
