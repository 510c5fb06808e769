"""What is shown of an answer: all of it, nothing that could run, and nothing from elsewhere."""

from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from endcap_client import Page, Placement, ScoredProduct, SearchResult, StageStatus, Status
from endcap_client.products import embedded, read_products
from endcap_client.reasons import reason
from endcap_client.rendering import document_html
from endcap_client.types import Product

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
UMBRELLA = Product("Blue umbrella", "Drizzle", "Rain > Umbrellas", price=1234.5, in_stock=1.0)
VOID = {"meta", "img"}


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
        if tag not in VOID:
            self.open.append(tag)
        self.attributes.extend(attrs)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open and data.strip():
            self.texts.append(data.strip())


def read(html: str) -> Reader:
    reader = Reader(html)
    assert not reader.open
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    names = {name for name, _ in reader.attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"style", "href"}
    assert all(value.startswith("data:image/") for name, value in reader.attributes if name == "src")
    assert "url(" not in html
    return reader


def test_a_page_shows_all_there_is():
    reader = read(PAGE._repr_html_())
    for each in ("Rainy days", "umbrella", "rain coat", "p1", "p2", "0.900", "Bare", "no products", "relevance", "-"):
        assert each in reader.texts
    assert "theme generated 41.2 ms; duplicate 1" in reader.texts
    assert "keywords fallback: keyword_llm: late" in reader.texts
    assert "123 ms" in reader.texts


def test_titles_where_there_are_some():
    texts = read(PAGE.to_html({"p1": "Blue umbrella"})).texts
    assert {"Blue umbrella", "p1", "p2"} <= set(texts)


def test_what_a_shop_shows_of_a_product():
    texts = read(PAGE.to_html({"p1": UMBRELLA, "p2": Product("Boots", price=float("nan"), in_stock=0.0)})).texts
    assert {"Blue umbrella", "Drizzle", "1,234.50", "In stock", "Boots", "Sold out", "Fits the theme 0.50"} <= set(
        texts
    )


@pytest.mark.parametrize(
    ("source", "signals", "said"),
    [
        (
            "generated",
            {"relevance": 0.91, "ranker": 0.3},
            "Fits the theme 0.91; less likely to be bought than average (0.30)",
        ),
        ("generated", {"similarity": 0.5, "diversity": 0.1}, "Close to the theme 0.50; lowered, because it is like"),
        ("classic:buy_again", {"ranker": 0.4}, "Bought before; less likely to be bought than average (0.40)"),
        ("search", {"relevance": 0.5, "lexical": 1.0}, "Fits the search 0.50; has the words of the search 1.00"),
        ("generated", {"relevance": 0.5, "rule": 1.5}, "Fits the theme 0.50; raised by a rule x 1.5"),
        ("generated", {"pinned": 1.0, "rule": 1.0}, "Put first by a rule"),
        ("generated", {"retrieval": 1.0}, "One of the candidates"),
        ("generated", {}, ""),
    ],
)
def test_why_a_product_is_there(source: str, signals: dict[str, float], said: str):
    text = reason(Placement("Rain", (), (), source), ScoredProduct("p1", 0.5, signals))
    assert text.startswith(said)
    assert bool(text) == bool(signals)


def test_a_search():
    texts = read(SearchResult("tea pot", PRODUCTS, STATUS, 0.02)._repr_html_()).texts
    assert "tea pot" in texts
    assert "p2" in texts


def test_an_empty_page():
    assert "no placements" in read(Page((), STATUS, 0.1)._repr_html_()).texts


@pytest.mark.parametrize("score", [0.0, -3.0, 7.5, float("nan"), float("-inf")])
def test_bars_stay_within_their_card(score):
    products = (ScoredProduct("p1", 1.0, {"rule": 40.0}), ScoredProduct("p2", score, {"rule": -1.0}))
    reader = read(SearchResult("tea", products, STATUS, 0.02)._repr_html_())
    widths = [value for name, value in reader.attributes if name == "width"]
    assert len(widths) == 8
    assert all(0 <= float(width) <= 100 for width in widths)


def test_no_text_can_become_markup():
    """From a title, an id, a theme, a keyword, a signal's name, a stage's name, source, reason or count."""
    status = Status(stages={EVIL: StageStatus(EVIL, 1.0, EVIL, {EVIL: 1})}, signals=(EVIL,), versions={}, document={})
    products = (ScoredProduct(EVIL, 0.5, {EVIL: 0.1}),)
    page = Page((Placement(EVIL, (EVIL,), products, EVIL),), status, 0.1)
    shown = {EVIL: Product(EVIL, EVIL, EVIL)}
    for html in (
        page._repr_html_(),
        page.to_html({EVIL: EVIL}),
        page.to_html(shown),
        SearchResult(EVIL, products, status, 0.1).to_html(),
        document_html([(EVIL, page)], shown, EVIL),
    ):
        reader = read(html)
        assert reader.texts.count(EVIL) >= 3


def test_a_file_needs_no_network():
    html = document_html([("A regular shopper", PAGE), ("", SearchResult("tea", PRODUCTS, STATUS, 0.02))], {}, "Shop")
    reader = read(html)
    assert html.startswith("<!doctype html>")
    assert {"Shop", "A regular shopper", "Rainy days", "tea"} <= set(reader.texts)
    assert "default-src 'none'; style-src 'sha256-" in html


def test_products_of_a_catalogue(tmp_path: Path):
    (tmp_path / "tea.png").write_bytes(b"\x89PNG")
    (tmp_path / "secret.txt").write_text("no picture", encoding="utf-8")
    images = ["tea.png", "https://shop.example/cup.png", "../outside.png", "secret.txt", None]
    ids = [f"p{number}" for number in range(len(images))]
    (tmp_path.parent / "outside.png").write_bytes(b"\x89PNG")
    pl.DataFrame({"product_id": ids, "title": "Tea", "price": 2.5, "image": images}).write_parquet(
        tmp_path / "products.parquet"
    )
    products = read_products(tmp_path)
    assert products["p1"] == Product("Tea", price=2.5, picture="https://shop.example/cup.png")
    pictures = [each.picture for each in embedded(products, [*ids, "unknown"], tmp_path).values()]
    assert pictures == ["data:image/png;base64,iVBORw==", "", "", "", ""]
    shown = read(PAGE.to_html({"p1": embedded(products, ["p0"], tmp_path)["p0"]}))
    assert ("src", pictures[0]) in shown.attributes
