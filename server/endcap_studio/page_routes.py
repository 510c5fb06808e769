"""The page as a shop would show it, for any shopper, and why everything on it is there."""

from dataclasses import dataclass
from typing import Annotated

from endcap_client import Page
from endcap_client.products import embedded
from endcap_client.rendering import document_html, search_section, stages
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse

from endcap_studio.app import Studio, studio_of
from endcap_studio.shop import Shop
from endcap_studio.theme_use import meaning
from endcap_studio.views import Person, View, drawn

router = APIRouter()
ViewOf = Annotated[View, Depends(View.read)]
_FOUND = 8
_HISTORY_SHOWN = 20


@dataclass(frozen=True)
class Span:
    """A stage on the time line of a page, in hundredths of it."""

    name: str
    start: float
    width: float
    ms: str


@router.get("/")
def page(request: Request, view: ViewOf) -> Response:
    """The page of a shopper."""
    studio = studio_of(request)
    shop = studio.deployment.shop
    person = Person.of(view, shop)
    answer = studio.deployment.page(person.ask(view))
    noted(studio, answer)
    found = studio.deployment.search(view.q, person.history) if view.q else None
    ids = [product.product_id for product in found.products] if found else []
    return studio.render(
        request,
        "page.jinja",
        view=view,
        person=person,
        history=[_titled(shop, each) for each in reversed(person.history[-_HISTORY_SHOWN:])],
        added=[_titled(shop, each) for each in view.add],
        more_history=max(0, len(person.history) - _HISTORY_SHOWN),
        sections=drawn(answer, shop, person.why),
        answer=answer,
        stages=stages(answer.status),
        refused=refused(answer),
        spans=spans(answer),
        latencies=list(studio.latencies),
        found=search_section(found, shop.products(ids), person.why) if found else None,
        found_ms=1000 * found.seconds if found else 0.0,
        can_find=shop.shoppers is not None,
        why_not=shop.extras.problem,
    )


@router.get("/find")
def find(request: Request, view: ViewOf, text: Annotated[str, Query(max_length=200)] = "") -> Response:
    """Shoppers who bought what a text names, and the products themselves; while a person types."""
    studio = studio_of(request)
    shop = studio.deployment.shop
    rows = shop.find(text, _FOUND) if len(text.strip()) > 1 else []
    shoppers: list[tuple[str, int]] = []
    if shop.shoppers is not None and text.strip():
        shoppers = [(name, 0) for name in shop.shoppers.named(text.strip(), 4)]
        shoppers += shop.shoppers.who_bought(rows, _FOUND - len(shoppers))
    return studio.render(
        request,
        "found.jinja",
        view=view,
        text=text.strip(),
        products=[(shop.store.product_ids[row], shop.title(row)) for row in rows],
        shoppers=list({name: (name, count) for name, count in reversed(shoppers)}.values())[::-1],
    )


@router.get("/page.html")
def export(request: Request, view: ViewOf) -> Response:
    """The page as one HTML file, for a mail or a ticket."""
    studio = studio_of(request)
    shop = studio.deployment.shop
    person = Person.of(view, shop)
    answer = studio.deployment.page(person.ask(view))
    ids = [product.product_id for placement in answer.placements for product in placement.products]
    title = f"Storefront of {view.shopper or 'a new shopper'}"
    text = document_html([("", answer)], embedded(shop.products(ids), ids, None), title)
    return HTMLResponse(text, headers={"Content-Disposition": 'attachment; filename="storefront.html"'})


@router.get("/picture/{product:path}")
def picture(request: Request, product: str) -> Response:
    """A picture of the catalogue."""
    file = studio_of(request).deployment.shop.picture(product)
    if file is None:
        raise HTTPException(404, "this product has no picture in the catalogue's folder")
    return FileResponse(file)


def noted(studio: Studio, answer: Page) -> None:
    """Remember the latency of a page, and what checks refused."""
    studio.latencies.append(answer.seconds)
    for pair in refused(answer):
        if pair not in studio.refused:
            studio.refused.append(pair)


def refused(answer: Page) -> list[tuple[str, str]]:
    """Titles that checks refused on a page, and why."""
    theme = answer.status.document["stages"].get("theme", {})
    return [(str(each["text"]), meaning(str(each["check"]))) for each in theme.get("refused", ())]


def spans(answer: Page) -> list[Span]:
    """The stages one after the other, as parts of the server's time."""
    total = max(sum(stage.ms for stage in answer.status.stages.values() if stage.ms == stage.ms), 1e-6)
    found, start = [], 0.0
    for name, stage in answer.status.stages.items():
        width = 0.0 if stage.ms != stage.ms else 100 * stage.ms / total
        found.append(Span(name, start, width, f"{stage.ms:.1f} ms"))
        start += width
    return found


def _titled(shop: Shop, product: str) -> tuple[str, str]:
    row = shop.row(product)
    return product, shop.title(row) if row >= 0 else product
