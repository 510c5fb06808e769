"""Themes: what LLM 1 writes these days, on which pages, what somebody decided about it, what checks refused."""

from pathlib import Path
from typing import Annotated, Literal

from endcap_client.rendering import SOURCES
from endcap_server.shop.standing_rules import RuleKind, StandingRule, title_key
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from endcap_studio.app import Studio, studio_of
from endcap_studio.drafts import checked
from endcap_studio.errors import StudioError
from endcap_studio.rule_routes import known_names, set_rules, signed
from endcap_studio.security import FormOf, text_of
from endcap_studio.theme_use import meaning, read_pages, read_uses, refusals

router = APIRouter()
_TITLES, _PAGES = 100, 8
_DECISIONS = {"ban": RuleKind.BAN, "approve": RuleKind.APPROVE, "rewrite": RuleKind.REWRITE}
_SOURCES = tuple(SOURCES)


@router.get("/themes")
def themes(
    request: Request,
    source: Annotated[Literal["", *_SOURCES], Query()] = "generated",  # type: ignore[valid-type]
    text: Annotated[str, Query(max_length=200)] = "",
    done: Annotated[str, Query(max_length=40)] = "",
) -> Response:
    """Titles by frequency."""
    studio = studio_of(request)
    server = studio.deployment.server
    return studio.render(
        request,
        "themes.jinja",
        uses=read_uses(Path(server.exposures), source, text.strip(), _TITLES),
        decided=_decided(studio),
        source=source,
        sources=[(each, SOURCES[each]) for each in _SOURCES],
        text=text,
        done=done,
        refusals=[(meaning(check), count) for check, count in refusals(server.metrics).items()],
        refused=list(reversed(studio.refused)),
    )


@router.get("/themes/title")
def title(request: Request, title: Annotated[str, Query(min_length=1, max_length=200)]) -> Response:
    """One title: its pages, its products, and the form to decide."""
    studio = studio_of(request)
    shop = studio.deployment.shop
    pages = read_pages(Path(studio.deployment.server.exposures), title, _PAGES)
    products = shop.products(product for page in pages for product in page.products[:4])
    return studio.render(
        request,
        "title.jinja",
        title=title,
        pages=pages,
        names={product: each.title for product, each in products.items()},
        rules=_decided(studio).get(title_key(title), []),
    )


@router.post("/themes/decide")
def decide(request: Request, form: FormOf) -> Response:
    """Approve, ban or rewrite a title, for every page from now on."""
    studio = studio_of(request)
    decision, about = text_of(form, "decision"), text_of(form, "title")
    kind = _DECISIONS.get(decision)
    if kind is None:
        raise StudioError(f"expected approve, ban or rewrite, got {decision!r}")
    author, reason = signed(text_of(form, "author"), text_of(form, "reason"))
    record = {"rule": str(kind), "subject": f"title:{about}", "author": author, "reason": reason}
    if kind is RuleKind.REWRITE:
        record["to"] = text_of(form, "to")
    set_rules(studio, checked([record], known_names(studio)))
    return RedirectResponse(f"/themes?done={decision}", 303)


def _decided(studio: Studio) -> dict[str, list[StandingRule]]:
    """`title_key` of a title -> what was decided about it."""
    found: dict[str, list[StandingRule]] = {}
    for rule in studio.deployment.shop.facts.rules():
        if rule.about == "title":
            found.setdefault(title_key(rule.name), []).append(rule)
    return found
