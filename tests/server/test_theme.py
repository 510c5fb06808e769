import asyncio
import json
from pathlib import Path

import pytest
from endcap_server.declared.tensors import Tensors, texts_of
from endcap_server.shop.prompts import ThemeDraft, theme_completion
from endcap_server.shop.title_checks import SEARCH_WORDS, TITLE_WORDS
from endcap_server.stages.documents import ThemeRequest, Themes, ticket_of
from endcap_server.stages.keywords import Keywords
from endcap_server.stages.status import part_of
from endcap_server.stages.theme import Theme
from tickets import ticket
from tiny_shop import CATEGORIES, TinyEngines, build_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(autouse=True)
def _run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDCAP_RUN_DIR", str(tmp_path))


def answer(
    shop: Path,
    broken: dict[str, str] | None = None,
    placements: int = 4,
    budget_ms: int = 2000,
    parameters: dict[str, str] | None = None,
    shopper: str = "likes:lamps,rugs",
    categories: tuple[int, ...] = (5, 0),
    searches: tuple[str, ...] = (),
    **rules: object,
) -> tuple[list[str], Tensors, dict]:
    theme = Theme(shop, parameters or {}, TinyEngines(shop, broken))
    request = ThemeRequest(
        ticket=ticket(budget_ms),
        shopper=shopper,
        placements=placements,
        rules=rules,
        categories=categories,
        searches=searches,
    )
    out = asyncio.run(theme.run({"THEME_REQUEST": request.tensor()}))
    return list(themes_of(out).titles), out, part_of(out["THEMES"])


def themes_of(out: Tensors) -> Themes:
    return Themes.read(out["THEMES"])


def test_what_keywords_will_ask_for_is_encoded_along(shop: Path) -> None:
    """One run of the encoder for both stages: the engine remembers the texts."""
    engines = TinyEngines(shop)
    request = ThemeRequest(ticket=ticket(), shopper="likes:lamps", placements=3)
    themes = asyncio.run(Theme(shop, {}, engines).run({"THEME_REQUEST": request.tensor()}))
    asyncio.run(Keywords(shop, {}, engines).run({"THEMES": themes["THEMES"]}))
    along, asked = (texts_of(inputs["TEXT"]) for name, inputs in engines.calls if name == "nearest")
    titles = themes_of(themes).titles
    assert along[: len(titles)] == list(titles)
    assert set(asked) <= set(along)


def written(*themes: ThemeDraft) -> dict[str, str]:
    return {"theme_llm": theme_completion(themes)}


def test_themes_of_the_llm(shop: Path) -> None:
    themes, out, status = answer(shop)
    assert themes[:3] == ["Light up the evening", "Soft underfoot", "Ready to plant"]
    assert len(themes) == 5
    assert len(themes_of(out).concepts) == 5
    assert themes_of(out).concepts[0] == ("desk lamp", "floor lamp")
    assert status["source"] == "generated"
    assert "reason" not in status
    assert status["generated_themes"] == 5


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"theme_llm": "dead"}, "theme_llm: is not ready"),
        ({"theme_llm": "late"}, "theme_llm: no answer within its share"),
        ({"theme_llm": "sorry, I cannot"}, "theme_llm: themes: expected a JSON list"),
        ({"theme_llm": '[{"titel": 1}]'}, "theme_llm: themes: expected an object"),
        ({"theme_llm": '[{"title":"Light'}, "theme_llm: no theme was complete in time"),
    ],
)
def test_without_the_llm_themes_are_the_shoppers_categories(shop: Path, broken: dict[str, str], reason: str) -> None:
    themes, out, status = answer(shop, broken, budget_ms=600)
    assert themes[:2] == ["Drinks", "Lamps"]
    assert len(set(themes)) == 5
    assert themes_of(out).concepts[0][:2] == ("drinks", "apple juice")
    assert status["source"] == "fallback"
    assert reason in status["reason"]
    assert {each["engine"] for each in status["causes"]} == {"theme_llm"}


def test_a_title_speaks_of_a_search_only_if_there_was_one(tmp_path: Path) -> None:
    shop = build_shop(tmp_path)
    (shop / "theme_llm").mkdir(exist_ok=True)
    (shop / "theme_llm" / TITLE_WORDS).write_text("your\nsearch\nfor", encoding="utf-8")
    (shop / "theme_llm" / SEARCH_WORDS).write_text("search", encoding="utf-8")
    draft = ThemeDraft("Your search for lamps", ("lamps",))
    titles, _, status = answer(shop, written(draft), placements=2, shopper="likes:rugs")
    assert draft.title not in titles
    assert status["aiqa"]["title_search"] == 1
    titles, _, _ = answer(
        shop, written(draft), placements=2, shopper="likes:rugs", parameters={"unknown_words": "allow"}
    )
    assert draft.title not in titles, "that is another check"
    titles, _, status = answer(shop, written(draft), placements=2, shopper="likes:rugs|searched:lamps")
    assert draft.title in titles
    assert "title_search" not in status.get("aiqa", {})


def ask(theme: Theme, shopper: str = "likes:lamps", budget_ms: float = 2000) -> tuple[Tensors, dict]:
    """The stage's answer as a server gives it: what it keeps, else what it makes."""
    request = {"THEME_REQUEST": ThemeRequest(ticket=ticket(budget_ms), shopper=shopper, placements=3).tensor()}
    if known := theme.recall(request):
        assert known.tensors == {}
        out = {"THEMES": theme.carry(known.status(), known.document)}
    else:
        out = asyncio.run(theme.run(request))
    assert ticket_of(out["THEMES"]) == ticket_of(request["THEME_REQUEST"]), "of this request, whoever's themes they are"
    return out, part_of(out["THEMES"])


def test_whole_answers_are_kept(shop: Path) -> None:
    theme = Theme(shop, {}, TinyEngines(shop))
    first, status = ask(theme)
    again, kept = ask(theme, budget_ms=400)
    assert (status["source"], kept["source"]) == ("generated", "cached")
    assert themes_of(again) == themes_of(first)
    same = set(status) - {"source", "ms", "started_ns", "finished_ns"}
    assert {name: kept[name] for name in same} == {name: status[name] for name in same}
    assert ask(theme, "likes:rugs")[1]["source"] == "generated"


def test_what_the_checks_refuse_once_they_would_refuse_again(shop: Path) -> None:
    drafts = [ThemeDraft("Bright corners", ("desk lamp",)), *[ThemeDraft("Sh1t for less", ("wool rug",))] * 3]
    engines = TinyEngines(shop, written(*drafts))
    theme = Theme(shop, {}, engines)
    first, status = ask(theme, "likes:lamps")
    engines.broken.clear()
    again, kept = ask(theme, "likes:lamps")
    assert (status["source"], kept["source"]) == ("generated", "cached")
    assert themes_of(again) == themes_of(first)
    assert kept["reason"] == status["reason"] == "2 of 3 themes are categories"
    assert kept["causes"] == status["causes"]


@pytest.mark.parametrize(
    "broken",
    [
        {"theme_llm": "dead"},
        {"theme_llm": '[{"title":"Light up the evening","concepts":["desk lamp"]}'},
        {"theme_llm": "[]"},
        {"nearest": "dead"},
    ],
)
def test_nothing_else_is_kept(shop: Path, broken: dict[str, str]) -> None:
    engines = TinyEngines(shop, broken)
    theme = Theme(shop, {}, engines)
    ask(theme)
    engines.broken.clear()
    assert ask(theme)[1]["source"] == "generated"
    assert "reason" not in ask(theme)[1]


def test_an_answer_that_was_abandoned_is_not_kept(shop: Path) -> None:
    theme = Theme(shop, {}, TinyEngines(shop, {"theme_llm": "late"}))

    async def leave() -> None:
        request = ThemeRequest(ticket=ticket(), shopper="likes:lamps", placements=3)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(theme.run({"THEME_REQUEST": request.tensor()}), 0.01)

    asyncio.run(leave())
    assert len(theme.cache) == 0


def test_a_spare_theme_that_fails_the_checks_is_not_replaced(shop: Path) -> None:
    bad = ThemeDraft("Sh1t for less", ("wool rug",))
    titles = ["Bright corners", "Warm drinks", "Soft floors", "Green balconies", "Long evenings"]
    drafts = [ThemeDraft(title, (word,)) for title, word in zip(titles, ["a", "b", "c", "d", "e"], strict=True)]
    themes, _, status = answer(shop, written(bad, *drafts))
    assert [theme for theme in themes if theme] == titles
    assert (status["source"], status["category_themes"]) == ("generated", 0)
    assert "reason" not in status


def test_no_budget_asks_nobody(shop: Path) -> None:
    themes, _, status = answer(shop, budget_ms=0)
    assert all(themes)
    assert status["reason"].startswith("theme_llm: the budget leaves it no time")


def test_quality_checks(shop: Path) -> None:
    broken = written(
        ThemeDraft("Bright corners", ("desk lamp",)),
        ThemeDraft("Corners, bright", ("reading lamp",)),
        ThemeDraft("Sh1t for less", ("wool rug",)),
        ThemeDraft("Тёплый чай", ("green tea",)),
        ThemeDraft("The very best of everything that you could ever want today", ("rug pad",)),
        ThemeDraft("Norrland evenings", ("rug pad",)),
        ThemeDraft("Tea for two", ("cocaine", "f u c k")),
        ThemeDraft("Warm drinks", ("green tea", "crystal meth")),
    )
    themes, out, status = answer(shop, broken, shopper="likes:lamps|brands:Ostara")
    assert themes[:2] == ["Bright corners", "Warm drinks"]
    assert themes_of(out).concepts[1] == ("green tea",)
    assert status["aiqa"] == {
        "near_duplicate": 1,
        "policy_profanity": 1,
        "title_script": 1,
        "title_length": 1,
        "title_brand": 1,
        "concept_policy": 3,
        "no_concepts": 1,
    }
    assert status["source"] == "generated"
    assert status["reason"] == "2 of 4 themes are categories"
    assert status["category_themes"] == 2


def test_brands_in_titles(shop: Path) -> None:
    broken = written(ThemeDraft("Norrland evenings", ("desk lamp",)))
    assert answer(shop, broken, shopper="brands:Norrland")[0][0] == "Norrland evenings"
    assert answer(shop, broken, shopper="brands:Ostara")[0][0] != "Norrland evenings"
    assert answer(shop, broken, parameters={"brands_in_titles": "allow"})[0][0] == "Norrland evenings"
    refused = answer(shop, broken, shopper="brands:Norrland", parameters={"brands_in_titles": "refuse"})
    assert refused[0][0] != "Norrland evenings"
    assert refused[2]["source"] == "fallback"


def test_near_duplicates_by_meaning(shop: Path) -> None:
    # The tiny shop's vectors are bags of words: the same words in two forms are the same vector.
    broken = written(ThemeDraft("Desk lamp", ("desk lamp",)), ThemeDraft("Lamps, desks", ("floor lamp",)))
    assert answer(shop, broken, parameters={"max_overlap": "1"})[2]["aiqa"] == {"near_duplicate": 1}
    dead = answer(shop, broken | {"nearest": "dead"}, parameters={"max_overlap": "1"})[2]
    assert "near-duplicates by words only (nearest: is not ready)" in dead["reason"]


def test_required_themes_come_first(shop: Path) -> None:
    required = ["Easter breakfast", "Norrland: 20 years", ":::"]
    themes, out, status = answer(shop, required_themes=required)
    assert themes[:3] == required
    assert themes_of(out).concepts[0][:2] == ("easter breakfast", "apple juice")
    assert themes_of(out).concepts[2] == (":::",)
    assert themes[3] == "Light up the evening"
    assert status["source"] == "generated"


def test_required_themes_without_the_llm(shop: Path) -> None:
    themes, out, status = answer(shop, {"theme_llm": "dead"}, required_themes=["Easter breakfast"])
    assert themes[0] == "Easter breakfast"
    assert themes_of(out).concepts[0][0] == "Easter breakfast"
    assert status["source"] == "fallback"


def test_more_required_themes_than_placements(shop: Path) -> None:
    themes, _, status = answer(shop, placements=1, required_themes=["One", "Two", "Three"])
    assert themes[0] == "One"
    assert "Two" not in themes
    assert status["aiqa"]["required_theme_without_place"] == 2


def test_largest_page(shop: Path) -> None:
    themes, _, status = answer(shop, placements=16, parameters={"spare": "4"})
    assert len(themes) == 20
    assert len({theme for theme in themes if theme}) == len([theme for theme in themes if theme])
    assert status["generated_themes"] == 8
    assert "themes are categories" in status["reason"]


def test_a_catalogue_without_categories_falls_back_to_searches(tmp_path: Path) -> None:
    shop = build_shop(tmp_path / "shop", categories=False)
    themes, out, _ = answer(shop, {"theme_llm": "dead"}, categories=())
    assert themes[:2] == ["Desk lamp", "Floor lamp"]
    assert themes_of(out).concepts[0][0] == "desk lamp"


def test_own_scripts_and_words(shop: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("evening\n", encoding="utf-8")
    themes, _, status = answer(shop, parameters={"text_policy": str(words)})
    assert "Light up the evening" not in themes
    assert status["aiqa"] == {"policy_words": 1}
    broken = written(ThemeDraft("Тёплый чай", ("green tea",)))
    assert answer(shop, broken, parameters={"scripts": "latin, cyrillic"})[0][0] == "Тёплый чай"


def test_answers_are_json_and_titles_known_to_the_catalogue(shop: Path) -> None:
    _, out, _ = answer(shop, {"theme_llm": json.dumps([{"title": "a\ud800b", "concepts": ["\ud800"]}])})
    assert themes_of(out).titles[0] in {name.rsplit(" > ", 1)[1].capitalize() for name in CATEGORIES}


def test_each_search_of_the_session_has_a_theme_right_after_the_required_ones(shop: Path) -> None:
    drafts = written(ThemeDraft("Lights for you", ("desk lamp", "floor lamp")), ThemeDraft("Rugs found", ("wool rug",)))
    themes, out, _ = answer(shop, drafts, searches=("wool rug", "jigsaw puzzle"), required_themes=["Sale"])
    document = themes_of(out)
    assert themes[0] == "Sale"
    assert themes[2] == "Jigsaw puzzle"
    assert [document.concepts[index][0] for index in (1, 2)] == ["wool rug", "jigsaw puzzle"]
    assert [str(source) for source in document.sources[:3]] == ["required", "session", "session"]


def test_searches_have_themes_without_the_llm(shop: Path) -> None:
    themes, out, status = answer(shop, {"theme_llm": "dead"}, searches=("wool rug",))
    assert themes[0] == "Wool rug"
    assert str(themes_of(out).source(0)) == "session"
    assert {str(source) for source in themes_of(out).sources[1:]} == {"category"}
    assert status["source"] == "fallback"


def test_a_search_for_what_is_excluded_has_no_theme(shop: Path) -> None:
    themes, out, _ = answer(shop, searches=("wool rug",), exclude={"categories": ["home > rugs"]})
    assert not [title for title in themes if "rug" in title.lower()]
    assert "session" not in [str(source) for source in themes_of(out).sources]
