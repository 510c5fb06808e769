"""What a notebook shows of an answer: all of it, and nothing that could run."""

from html.parser import HTMLParser

import pytest
from endcap_client import Page, Placement, ScoredProduct, SearchResult, StageStatus, Status

EVIL = "<script>alert('1')</script>\"><img src=x onerror=alert(2)>&"
STATUS = Status(
    stages={
        "theme": StageStatus("generated", 41.2, aiqa={"duplicate": 1}),
        "keywords": StageStatus("fallback", float("nan"), "keyword_llm: late"),
    },
    signals=("relevance",),
    versions={},
    document={},
)
PRODUCTS = (ScoredProduct("p1", 0.9, {"relevance": 0.5}), ScoredProduct("p2", 0.45, {"relevance": float("nan")}))
PAGE = Page((Placement("Rainy days", ("umbrella", "rain coat"), PRODUCTS), Placement("Bare", (), ())), STATUS, 0.1234)


class Reader(HTMLParser):
    """Elements with their attributes, the texts outside of <style>, and whether every element is closed."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes.extend(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)


def read(html: str) -> Reader:
    reader = Reader(html)
    assert not reader.open
    assert not {"script", "img", "link", "iframe"} & set(reader.tags)
    assert {name for name, _ in reader.attributes} <= {"class", "style", "title"}
    assert "url(" not in html
    return reader


def test_a_page_shows_all_there_is():
    texts = read(PAGE._repr_html_()).texts
    for each in ("Rainy days", "umbrella", "rain coat", "p1", "p2", "0.900", "Bare", "no products", "relevance", "-"):
        assert each in texts
    assert "theme generated 41.2 ms" in texts
    assert "keywords fallback: keyword_llm: late" in texts
    assert "123 ms " in texts


def test_titles_where_there_are_some():
    texts = read(PAGE.to_html({"p1": "Blue umbrella"})).texts
    assert {"Blue umbrella", "p1", "p2"} <= set(texts)


def test_a_search():
    texts = read(SearchResult("tea pot", PRODUCTS, STATUS, 0.02)._repr_html_()).texts
    assert "tea pot" in texts
    assert "p2" in texts


def test_an_empty_page():
    assert "no placements" in read(Page((), STATUS, 0.1)._repr_html_()).texts


@pytest.mark.parametrize("score", [0.0, -3.0, 7.5, float("nan"), float("-inf")])
def test_bars_stay_within_their_tile(score):
    products = (ScoredProduct("p1", 1.0), ScoredProduct("p2", score))
    reader = read(SearchResult("tea", products, STATUS, 0.02)._repr_html_())
    widths = [value for name, value in reader.attributes if name == "style"]
    assert len(widths) == 2
    assert all(0 <= float(width.removeprefix("width:").removesuffix("%")) <= 100 for width in widths)


def test_no_text_can_become_markup():
    """From a title, an id, a theme, a keyword, a signal's name, a stage's name, source, reason or count."""
    status = Status(stages={EVIL: StageStatus(EVIL, 1.0, EVIL, {EVIL: 1})}, signals=(EVIL,), versions={}, document={})
    products = (ScoredProduct(EVIL, 0.5, {EVIL: 0.1}),)
    page = Page((Placement(EVIL, (EVIL,), products),), status, 0.1)
    for html in (page._repr_html_(), page.to_html({EVIL: EVIL}), SearchResult(EVIL, products, status, 0.1).to_html()):
        reader = read(html)
        assert reader.texts.count(EVIL) >= 3
