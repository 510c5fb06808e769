"""Pages and rankings as HTML: the one renderer of notebooks, `endcap request --html` and the studio.

Every text is escaped. Nothing is loaded from anywhere, except a picture that a `Product` names. There are no inline
styles, so a strict Content-Security-Policy holds. Colours are mixed from the surrounding text's colour, for light and
dark surroundings.
"""

import hashlib
import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from endcap_client.reasons import SIGNAL_MEANINGS, reason
from endcap_client.types import Page, Placement, Product, ScoredProduct, SearchResult, Status

Products = Mapping[str, "str | Product"]
"""Product id -> its title, or what the shop shows of it."""
Reason = Callable[[Placement, ScoredProduct], str]
"""A sentence on why a product stands where it does."""

_NO_PRODUCTS: Products = {}
_TINTS = 8
_DRAWINGS = 6
_UNBOUNDED = ("rule",)
"""Signals that are factors, not shares of 1."""
SOURCES = {
    "generated": "written by LLM 1",
    "prepared": "written by LLM 1 before",
    "required": "required by a rule",
    "session": "answers a search of this session",
    "category": "a category stands in for a theme",
    "classic:buy_again": "bought again",
    "classic:together": "bought together",
    "classic:popular": "sells now",
}
"""What each source of a placement means."""


@dataclass(frozen=True)
class Bar:
    """One signal: its name, what it means, its value as text, and its share of a full bar, 0 to 1."""

    name: str
    meaning: str
    value: str
    share: float


@dataclass(frozen=True)
class Card:
    """A product as a card shows it; `tint` and `drawing` choose the placeholder of a missing picture."""

    rank: int
    product_id: str
    product: Product
    price: str
    stock: str
    stock_kind: str
    initials: str
    tint: int
    drawing: int
    score: str
    share: float
    reason: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Section:
    """A placement, or a search's ranking."""

    title: str
    keywords: tuple[str, ...]
    source: str
    source_text: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class StageView:
    """A stage: what it did, as short texts."""

    name: str
    source: str
    ms: str
    degraded: bool
    reason: str
    removed: tuple[tuple[str, int], ...]


def page_html(page: Page, products: Products = _NO_PRODUCTS) -> str:
    """Return a page as an HTML fragment with its style.

    Args:
        page: the answer of `storefront`.
        products: product id -> title, or `Product`; the server sends ids only.
    """
    return _fragment(page_sections(page, products), page)


def search_html(result: SearchResult, products: Products = _NO_PRODUCTS) -> str:
    """Return a search's ranking as an HTML fragment with its style; arguments as in `page_html`."""
    return _fragment([search_section(result, products)], result)


def document_html(answers: Sequence[tuple[str, Page | SearchResult]], products: Products, title: str) -> str:
    """Return a whole HTML file that needs no other file and no network.

    Args:
        answers: heading and answer of each.
        products: as in `page_html`.
        title: of the file.
    """
    parts = [
        (heading, page_sections(answer, products) if isinstance(answer, Page) else [search_section(answer, products)])
        for heading, answer in answers
    ]
    shown = [
        (heading, sections, answer, stages(answer.status))
        for (heading, sections), (_, answer) in zip(parts, answers, strict=True)
    ]
    style = page_style() + files(__package__).joinpath("document.css").read_text(encoding="utf-8")
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = environment().get_template("document.jinja")
    return template.render(parts=shown, title=title, style=style, style_digest=digest)


def page_sections(page: Page, products: Products = _NO_PRODUCTS, reason_of: Reason = reason) -> list[Section]:
    """Return the placements of a page for the templates."""
    return [
        Section(
            placement.theme,
            placement.keywords,
            placement.source,
            SOURCES.get(placement.source, placement.source),
            _cards(placement, products, reason_of),
        )
        for placement in page.placements
    ]


def search_section(result: SearchResult, products: Products = _NO_PRODUCTS, reason_of: Reason = reason) -> Section:
    """Return a search's ranking for the templates."""
    placement = Placement(result.query, (), result.products, "search")
    return Section(result.query, (), "search", "", _cards(placement, products, reason_of))


def stages(status: Status) -> list[StageView]:
    """Return what each stage did, in the order of a request."""
    return [
        StageView(
            name,
            stage.source,
            "" if math.isnan(stage.ms) else f"{stage.ms:.1f} ms",
            name in status.degraded,
            stage.reason,
            tuple(stage.aiqa.items()),
        )
        for name, stage in status.stages.items()
    ]


def page_style() -> str:
    """Return the style of fragments."""
    return files(__package__).joinpath("page.css").read_text(encoding="utf-8")


@cache
def environment() -> Environment:
    """Return the environment of the templates, which escapes every text."""
    return Environment(
        loader=PackageLoader(__package__ or "endcap_client", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _fragment(sections: Iterable[Section], answer: Page | SearchResult) -> str:
    template = environment().get_template("fragment.jinja")
    return template.render(sections=list(sections), answer=answer, stages=stages(answer.status), style=page_style())


def _cards(placement: Placement, products: Products, reason_of: Reason) -> tuple[Card, ...]:
    low, high = _scale(placement.products)
    cards = []
    for rank, scored in enumerate(placement.products, 1):
        known = products.get(scored.product_id)
        product = known if isinstance(known, Product) else Product(title=known or "")
        share = 0.0 if not math.isfinite(scored.score) else (scored.score - low) / (high - low)
        stock, kind = _stock(product.in_stock)
        cards.append(
            Card(
                rank,
                scored.product_id,
                product,
                "" if product.price is None or math.isnan(product.price) else f"{product.price:,.2f}",
                stock,
                kind,
                _initials(product.brand or product.title or scored.product_id),
                _number_of(product.category or product.brand or scored.product_id, _TINTS),
                _number_of(product.category.rpartition(">")[2] or product.title or scored.product_id, _DRAWINGS),
                _number(scored.score),
                min(1.0, max(0.0, share)),
                reason_of(placement, scored),
                _bars(scored.signals),
            )
        )
    return tuple(cards)


def _bars(signals: Mapping[str, float]) -> tuple[Bar, ...]:
    bars = []
    for name, value in signals.items():
        of = 2.0 if name in _UNBOUNDED else 1.0
        share = 0.0 if not math.isfinite(value) else min(1.0, max(0.0, value / of))
        bars.append(Bar(name, SIGNAL_MEANINGS.get(name, name), _number(value), share))
    return tuple(bars)


def _stock(share: float | None) -> tuple[str, str]:
    if share is None or math.isnan(share):
        return "", ""
    if share <= 0:
        return "Sold out", "none"
    return ("In stock", "all") if share >= 1 else (f"{share:.0%} of variants in stock", "some")


def _initials(text: str) -> str:
    words = [word for word in text.split() if word[0].isalnum()] or [text.strip() or "?"]
    return "".join(word[0] for word in words[:2]).upper()


def _number_of(text: str, count: int) -> int:
    """A number below `count` that is always the same for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=2).digest(), "little") % count


def _scale(products: Sequence[ScoredProduct]) -> tuple[float, float]:
    """The range of the score bars: zero or the lowest score, and the highest."""
    scores = [product.score for product in products if math.isfinite(product.score)] or [0.0]
    low, high = min(0.0, *scores), max(scores)
    return low, high if high > low else low + 1.0


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
