"""Pages and rankings as HTML for a notebook: one self-contained fragment, every text in it escaped.

Colours are mixed from the surrounding text's colour, for light and dark notebooks.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from endcap_client.types import Page, ScoredProduct, SearchResult, StageStatus, Status

_NO_TITLES: Mapping[str, str] = {}
_STYLE = """
.endcap{--line:color-mix(in srgb,currentColor 16%,transparent);--soft:color-mix(in srgb,currentColor 62%,transparent);
--fill:color-mix(in srgb,currentColor 5%,transparent);--accent:#2f7d6b;--warn:#b3541e;
font:14px/1.45 system-ui,sans-serif;
max-width:1180px;padding:4px 0}
.endcap section{margin:0 0 18px}
.endcap h4{font-size:16px;font-weight:650;margin:0 0 2px}
.endcap .keywords{color:var(--soft);margin:0 0 8px}
.endcap .keywords span+span:before{content:"·";margin:0 .5em}
.endcap ol{display:grid;grid-template-columns:repeat(auto-fill,minmax(136px,1fr));gap:8px;
list-style:none;margin:0;padding:0}
.endcap li{margin:0;border:1px solid var(--line);border-radius:8px;background:var(--fill);padding:8px 10px;min-width:0;
display:flex;flex-direction:column}
.endcap .title{font-size:13px;font-weight:500;margin-bottom:2px;overflow-wrap:anywhere;
display:-webkit-box;overflow:hidden;
-webkit-line-clamp:3;-webkit-box-orient:vertical}
.endcap .id,.endcap .score,.endcap .rank{font-size:12px;color:var(--soft);font-variant-numeric:tabular-nums}
.endcap .id{overflow-wrap:anywhere}
.endcap .head{display:flex;justify-content:space-between}
.endcap .bar{height:3px;border-radius:2px;background:var(--line);margin:auto 0 0}
.endcap .id{margin-bottom:6px}
.endcap .bar i{display:block;height:3px;border-radius:2px;background:var(--accent)}
.endcap details{margin-top:8px;color:var(--soft)}
.endcap summary{cursor:pointer}
.endcap table{border-collapse:collapse;font-size:12px;font-variant-numeric:tabular-nums;margin-top:6px}
.endcap th,.endcap td{text-align:right;padding:2px 8px;border-bottom:1px solid var(--line)}
.endcap th:first-child,.endcap td:first-child{text-align:left}
.endcap footer{border-top:1px solid var(--line);padding-top:8px;font-size:12px;color:var(--soft);
display:flex;flex-wrap:wrap;gap:6px;align-items:baseline}
.endcap footer span{border:1px solid var(--line);border-radius:999px;padding:0 8px}
.endcap footer .fallback{border-color:var(--warn);color:var(--warn)}
.endcap .none{color:var(--soft);font-style:italic}
"""


def page_html(page: Page, titles: Mapping[str, str] = _NO_TITLES) -> str:
    """Return a page as an HTML fragment.

    Args:
        page: the answer of `storefront`.
        titles: product id -> title; the server sends ids only.
    """
    sections = [
        _section(placement.theme, placement.keywords, placement.products, titles) for placement in page.placements
    ]
    return _fragment(sections or ['<p class="none">no placements</p>'], page.status, page.seconds)


def search_html(result: SearchResult, titles: Mapping[str, str] = _NO_TITLES) -> str:
    """Return a search's ranking as an HTML fragment; arguments as in `page_html`."""
    return _fragment([_section(result.query, (), result.products, titles)], result.status, result.seconds)


def _fragment(sections: Iterable[str], status: Status, seconds: float) -> str:
    return f'<div class="endcap"><style>{_STYLE}</style>{"".join(sections)}{_footer(status, seconds)}</div>'


def _section(
    heading: str, keywords: Sequence[str], products: Sequence[ScoredProduct], titles: Mapping[str, str]
) -> str:
    parts = [f"<section><h4>{escape(heading)}</h4>"]
    if keywords:
        chosen = "".join(f"<span>{escape(keyword)}</span>" for keyword in keywords)
        parts.append(f'<p class="keywords">{chosen}</p>')
    if not products:
        parts.append('<p class="none">no products</p>')
    else:
        scale = _scale(products)
        tiles = "".join(_tile(rank, product, titles, scale) for rank, product in enumerate(products, 1))
        parts.append(f"<ol>{tiles}</ol>")
        if products[0].signals:
            parts.append(_signals(products))
    return "".join([*parts, "</section>"])


def _tile(rank: int, product: ScoredProduct, titles: Mapping[str, str], scale: tuple[float, float]) -> str:
    title = titles.get(product.product_id)
    name = escape(product.product_id)
    full = name if title is None else escape(title)
    low, high = scale
    share = 0.0 if math.isnan(product.score) else (product.score - low) / (high - low)
    return (
        f'<li><div class="head"><span class="rank">{rank}</span>'
        f'<span class="score" title="score">{_number(product.score)}</span></div>'
        f'<div class="title" title="{full}">{full}</div>'
        + ("" if title is None else f'<div class="id">{name}</div>')
        + f'<div class="bar"><i style="width:{100 * min(1.0, max(0.0, share)):.0f}%"></i></div></li>'
    )


def _signals(products: Sequence[ScoredProduct]) -> str:
    names = list(products[0].signals)
    head = "".join(f"<th>{escape(name)}</th>" for name in ("product", "score", *names))
    rows = "".join(
        f"<tr><td>{escape(product.product_id)}</td><td>{_number(product.score)}</td>"
        + "".join(f"<td>{_number(product.signals.get(name, math.nan))}</td>" for name in names)
        + "</tr>"
        for product in products
    )
    return f"<details><summary>What the scores are made of</summary><table><tr>{head}</tr>{rows}</table></details>"


def _footer(status: Status, seconds: float) -> str:
    stages = "".join(_stage(name, stage, name in status.degraded) for name, stage in status.stages.items())
    return f"<footer>{1000 * seconds:.0f} ms {stages}</footer>"


def _stage(name: str, stage: StageStatus, degraded: bool) -> str:
    took = "" if math.isnan(stage.ms) else f" {stage.ms:.1f} ms"
    removed = ", ".join(f"{reason} {count}" for reason, count in stage.aiqa.items())
    notes = "; ".join(each for each in (stage.reason, f"removed: {removed}" if removed else "") if each)
    kind = ' class="fallback"' if degraded else ""
    hint = f' title="{escape(notes)}"' if notes else ""
    said = f": {escape(stage.reason)}" if degraded and stage.reason else ""
    return f"<span{kind}{hint}>{escape(name)} {escape(stage.source)}{took}{said}</span>"


def _scale(products: Sequence[ScoredProduct]) -> tuple[float, float]:
    """The range of the score bars: zero or the lowest score, and the highest."""
    scores = [product.score for product in products if math.isfinite(product.score)] or [0.0]
    low, high = min(0.0, *scores), max(scores)
    return low, high if high > low else low + 1.0


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
