import json

from endcap_client import Page, Placement, ScoredProduct, SearchResult, StageStatus, Status
from endcap_client.table import render_page, render_search, to_json

STATUS = Status(
    stages={
        "theme": StageStatus("generated", 41.2, aiqa={"duplicate": 1}),
        "keywords": StageStatus("fallback", 80.0, "keyword_llm: late"),
    },
    signals=("relevance",),
    versions={"catalogue": "c0ffee"},
    document={"stages": {"theme": {"source": "generated", "ms": 41.2}}, "signals": ["relevance"]},
)
PRODUCTS = (
    ScoredProduct("p1", 0.91234, {"relevance": 0.5}),
    ScoredProduct("p2", 0.5, {"relevance": float("nan")}),
)
PAGE = Page((Placement("Rainy days", ("umbrella", "rain coat"), PRODUCTS), Placement("Bare", (), ())), STATUS, 0.1234)


def test_a_page_reads_from_theme_to_products():
    lines = render_page(PAGE, {"p1": "Blue umbrella"}, width=80).splitlines()
    assert lines[0] == "1. Rainy days"
    assert lines[1] == "   umbrella · rain coat"
    assert lines[2].split() == ["#", "product", "title", "score", "relevance"]
    assert lines[3].split() == ["1", "p1", "Blue", "umbrella", "0.9123", "0.500"]
    assert lines[4].split() == ["2", "p2", "?", "0.5000", "-"]
    assert "(no products)" in "\n".join(lines)


def test_the_end_says_how_it_came_about():
    text = render_page(PAGE)
    assert "123 ms: theme generated 41.2 ms, keywords fallback 80.0 ms (keyword_llm: late)" in text
    assert "quality checks: duplicate 1" in text
    assert "degraded: keywords" in text


def test_without_titles_there_is_no_title_column():
    assert "title" not in render_page(PAGE)


def test_no_ranking_line_is_wider_than_the_terminal():
    titles = {"p1": "A very long title " * 20, "p2": "傘" * 100}
    lines = render_page(PAGE, titles, width=72).splitlines()
    assert max(len(line) + sum(sign == "傘" for sign in line) for line in lines) <= 72


def test_text_cannot_steer_the_terminal():
    page = Page((Placement("\x1b[2JBoo\n", (), PRODUCTS),), STATUS, 0.1)
    text = render_page(page, {"p1": "\x1b]0;x\x07"})
    assert "\x1b" not in text
    assert "\x07" not in text


def test_a_search():
    text = render_search(SearchResult("tea pot", PRODUCTS, STATUS, 0.02))
    assert text.startswith("Search: tea pot")
    assert "p2" in text


def test_json_is_strict_and_complete():
    document = json.loads(to_json(PAGE, {"p1": "Blue umbrella"}), parse_constant=lambda name: 1 / 0)
    products = document["placements"][0]["products"]
    assert products[0] == {
        "product_id": "p1",
        "title": "Blue umbrella",
        "score": 0.91234,
        "signals": {"relevance": 0.5},
    }
    assert products[1]["signals"] == {"relevance": None}
    assert document["status"] == STATUS.document
    assert document["seconds"] == 0.1234
