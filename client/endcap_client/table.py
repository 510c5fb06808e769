"""Pages and rankings as text for a terminal, or as JSON."""

import dataclasses
import json
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from endcap_client.types import Page, ScoredProduct, SearchResult, Status

_NO_TITLES: Mapping[str, str] = {}
_MIN_TITLE, _MIN_ID, _MAX_ID = 16, 7, 24


def render_page(page: Page, titles: Mapping[str, str] = _NO_TITLES, width: int = 100) -> str:
    """Return a page as text: each placement's theme, keywords and ranked products.

    Args:
        page: the answer of `Client.storefront`.
        titles: product id -> title; the server sends ids only.
        width: columns of the terminal.
    """
    lines: list[str] = []
    for number, placement in enumerate(page.placements, 1):
        lines.append(_cut(f"{number}. {placement.theme}", width))
        if placement.keywords:
            lines.append(_cut(f"   {' · '.join(placement.keywords)}", width))
        lines.extend(_ranking(placement.products, titles, width))
        lines.append("")
    lines.append(_summary(page.status, page.seconds, width))
    return "\n".join(lines)


def render_search(result: SearchResult, titles: Mapping[str, str] = _NO_TITLES, width: int = 100) -> str:
    """Return a search's ranking as text; arguments as in `render_page`."""
    lines = [_cut(f"Search: {result.query}", width)]
    lines.extend(_ranking(result.products, titles, width))
    return "\n".join([*lines, "", _summary(result.status, result.seconds, width)])


def to_json(answer: Page | SearchResult, titles: Mapping[str, str] = _NO_TITLES) -> str:
    """Return an answer as an indented JSON document; products have their title if `titles` has it."""
    return json.dumps(_plain(answer, titles), ensure_ascii=False, indent=2, allow_nan=False)


def _ranking(products: Sequence[ScoredProduct], titles: Mapping[str, str], width: int) -> Iterator[str]:
    if not products:
        yield "   (no products)"
        return
    id_width = min(_MAX_ID, max(_MIN_ID, *(_columns(product.product_id) for product in products)))
    signals = list(products[0].signals)
    signal_width = [max(6, len(name)) for name in signals]
    used = 7 + id_width + 2 + 8 + sum(2 + columns for columns in signal_width)
    title_width = max(_MIN_TITLE, width - used - 2) if titles else 0
    head = f"   {'#':>2}  {_fit('product', id_width)}"
    head += f"  {_fit('title', title_width)}" if titles else ""
    head += f"  {'score':>8}" + "".join(f"  {n:>{w}}" for n, w in zip(signals, signal_width, strict=True))
    yield head
    for rank, product in enumerate(products, 1):
        line = f"   {rank:>2}  {_fit(product.product_id, id_width)}"
        line += f"  {_fit(titles.get(product.product_id, '?'), title_width)}" if titles else ""
        line += f"  {product.score:8.4f}"
        line += "".join(f"  {_number(product.signals[n]):>{w}}" for n, w in zip(signals, signal_width, strict=True))
        yield line


def _summary(status: Status, seconds: float, width: int) -> str:
    parts = []
    for name, stage in status.stages.items():
        took = "" if math.isnan(stage.ms) else f" {stage.ms:.1f} ms"
        parts.append(f"{name} {stage.source}{took}" + (f" ({stage.reason})" if stage.reason else ""))
    removed: dict[str, int] = {}
    for stage in status.stages.values():
        for reason, count in stage.aiqa.items():
            removed[reason] = removed.get(reason, 0) + count
    lines = [f"{1000 * seconds:.0f} ms: {', '.join(parts)}"]
    if removed:
        lines.append("quality checks: " + ", ".join(f"{reason} {count}" for reason, count in removed.items()))
    if status.degraded:
        lines.append(f"degraded: {', '.join(status.degraded)}")
    return "\n".join(_wrapped(lines, width))


def _wrapped(lines: Sequence[str], width: int) -> Iterator[str]:
    for line in lines:
        row = ""
        for part in _clean(line).split(", "):
            if row and len(row) + 2 + len(part) > width:
                yield row + ","
                row = "    " + part
            else:
                row = f"{row}, {part}" if row else part
        yield row


def _plain(value: Any, titles: Mapping[str, str]) -> Any:
    if isinstance(value, ScoredProduct):
        title = {"title": titles[value.product_id]} if value.product_id in titles else {}
        signals = {"signals": _plain(value.signals, titles)} if value.signals else {}
        return {"product_id": value.product_id, **title, "score": value.score, **signals}
    if isinstance(value, Status):
        return _plain(value.document, titles)
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name), titles) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(item, titles) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item, titles) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    return value


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _clean(text: str) -> str:
    """Remove control characters: texts of catalogues or models must not control the terminal."""
    return "".join(" " if unicodedata.category(sign).startswith("C") else sign for sign in text)


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def _cut(text: str, width: int) -> str:
    text = _clean(text)
    if _columns(text) <= width:
        return text
    while _columns(text) > width - 1:
        text = text[:-1]
    return text.rstrip() + "…"


def _fit(text: str, width: int) -> str:
    text = _cut(text, width)
    return text + " " * (width - _columns(text))
