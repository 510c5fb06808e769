"""Rules: drafted, tried on one page and on a hundred, published as standing rules, taken back."""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any
from urllib.parse import urlencode

from endcap_client.errors import EndcapError
from endcap_server.facts.catalogues import Catalogues
from endcap_server.facts.place import Place
from endcap_server.facts.records import KnownNames
from endcap_server.shop.facts_state import FactsState, FactsWriter, RuleChange
from endcap_server.shop.standing_rules import RuleKind, StandingRule
from endcap_server.stages.status import utc_time
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from endcap_studio.app import Studio, studio_of
from endcap_studio.differences import Difference, difference
from endcap_studio.drafts import CHOICES, Draft, NewRule, checked, said
from endcap_studio.errors import StudioError
from endcap_studio.jobs import Job
from endcap_studio.page_routes import noted
from endcap_studio.security import form_of, text_of
from endcap_studio.shop import Shop
from endcap_studio.views import Person, View, drawn

router = APIRouter()
ViewOf = Annotated[View, Depends(View.read)]
SAMPLE = 100
"""Shoppers of a preview."""
_SHOWN = 200
"""Standing rules that are listed at once."""
_NAMES = 12
_MOST_DRAFT = 30_000


@dataclass(frozen=True)
class Preview:
    """What a draft does to pages of many shoppers; latencies in ms."""

    asked: int
    failed: int
    changed: int
    new_share: float
    moved_share: float
    titles: float
    before_ms: float
    after_ms: float
    most: tuple[tuple[View, Difference], ...]


def new_rule(
    what: Annotated[str, Query(max_length=40)] = "ban:brand",
    name: Annotated[str, Query(max_length=300)] = "",
    factor: Annotated[str, Query(max_length=20)] = "",
    start: Annotated[str, Query(max_length=40)] = "",
    end: Annotated[str, Query(max_length=40)] = "",
) -> NewRule:
    """The form for one rule, as the address has it."""
    return NewRule(what, name, factor, start, end)


@router.get("/rules")
def rules(
    request: Request,
    view: ViewOf,
    new: Annotated[NewRule, Depends(new_rule)],
    draft: Annotated[str, Query(max_length=_MOST_DRAFT)] = "",
    drop: Annotated[int, Query(ge=-1)] = -1,
    rule_text: Annotated[str, Query(max_length=200)] = "",
    done: Annotated[str, Query(max_length=40)] = "",
) -> Response:
    """The draft beside the rules that stand, and one page before and after."""
    studio = studio_of(request)
    shop, known, columns = studio.deployment.shop, known_names(studio), own_columns(studio)
    drafted, problem = Draft.read(draft, known, columns), ""
    if drop >= 0:
        return RedirectResponse(address(view, drafted.without(drop)), 303)
    if new.name:
        try:
            (rule,) = checked([new.record], known, columns)
            return RedirectResponse(address(view, drafted.with_rule(rule)), 303)
        except StudioError as error:
            problem = str(error)
    standing = list(FactsState.read(Path(studio.deployment.server.facts)).rules.values())
    found = [rule for rule in standing if rule_text.casefold() in f"{rule.subject} {rule.reason}".casefold()]
    found = [rule for rule in found if rule.rule is not RuleKind.APPROVE]
    return studio.render(
        request,
        "rules.jinja",
        view=view,
        person=Person.of(view, shop),
        draft=drafted,
        draft_fields=[*view.fields, ("draft", drafted.text)],
        said=[(rule, said(rule), _named(shop, rule), _span(rule)) for rule in drafted.rules],
        drop_url=lambda place: address(view, drafted, drop=place),
        new=new,
        problem=problem,
        choices=CHOICES,
        columns=columns,
        standing=[(rule, said(rule), _named(shop, rule), _span(rule)) for rule in reversed(found[-_SHOWN:])],
        hidden=max(0, len(found) - _SHOWN),
        total=sum(rule.rule is not RuleKind.APPROVE for rule in standing),
        now=time.time(),
        rule_text=rule_text,
        done=done,
        pages=_before_and_after(studio, view, drafted) if drafted.rules else None,
        sample=SAMPLE,
    )


@router.get("/rules/names")
def names(request: Request, new: Annotated[NewRule, Depends(new_rule)]) -> Response:
    """Products, brands or categories that a text in the form may mean."""
    studio = studio_of(request)
    shop, about, text = studio.deployment.shop, new.what.partition(":")[2], new.name.strip().casefold()
    options: list[tuple[str, str]] = []
    if about == "product" and len(text) > 1:
        options = [(shop.store.product_ids[row], shop.title(row)) for row in shop.find(text, _NAMES)]
    elif about in ("brand", "category"):
        every = shop.store.brands if about == "brand" else shop.store.categories
        options = [(name, "") for name in every if text in name.casefold()][:_NAMES]
    elif about == "column":
        options = [(name, "") for name in own_columns(studio)]
    return studio.render(request, "names.jinja", options=options)


@router.post("/rules/preview")
async def preview(request: Request) -> Response:
    """Begin to try the draft on many shoppers."""
    studio, form = studio_of(request), await form_of(request)
    drafted = Draft.read(text_of(form, "draft", _MOST_DRAFT), known_names(studio), own_columns(studio))
    if not drafted.rules:
        raise StudioError("the draft is empty; add a rule first")
    views = sample_views(studio.deployment.shop, SAMPLE)
    job = studio.jobs.start("preview", lambda job: _try(studio, job, drafted, views), len(views))
    return studio.render(request, "job.jinja", job=job)


@router.post("/rules/publish")
async def publish(request: Request) -> Response:
    """Make the draft stand."""
    studio, form = studio_of(request), await form_of(request)
    known, columns = known_names(studio), own_columns(studio)
    drafted = Draft.read(text_of(form, "draft", _MOST_DRAFT), known, columns)
    if not drafted.rules:
        raise StudioError("the draft is empty; add a rule first")
    author, reason = signed(text_of(form, "author"), text_of(form, "reason"))
    set_rules(studio, checked(drafted.records(author, reason), known, columns))
    view = View.of_form(dict(form), {name: form.getlist(name) for name in ("add", "session")})  # type: ignore[misc]
    return RedirectResponse(address(view, Draft(), done="published"), 303)


@router.post("/rules/take-back")
async def take_back(request: Request) -> Response:
    """End a standing rule."""
    studio, form = studio_of(request), await form_of(request)
    kind, subject = text_of(form, "rule"), text_of(form, "subject")
    standing = FactsState.read(Path(studio.deployment.server.facts)).rules.values()
    rule = next((each for each in standing if (str(each.rule), each.subject) == (kind, subject)), None)
    if rule is None:
        raise StudioError("this rule does not stand any more; somebody else has taken it back")
    set_rules(studio, [rule], remove=True)
    return RedirectResponse("/themes?done=back" if form.get("from") == "themes" else "/rules?done=back", 303)


def set_rules(studio: Studio, rules: Any, *, remove: bool = False) -> None:
    """Write standing rules into the journal, or end them; running servers see it at once.

    Raises:
        FactsError: It cannot be written; nothing was.
    """
    writer = FactsWriter(Path(studio.deployment.server.facts), "endcap studio")
    writer.write(rules=[RuleChange(rule, remove) for rule in rules])


def known_names(studio: Studio) -> KnownNames:
    """What the catalogues that are served have."""
    deployment = studio.deployment
    with studio.lock:
        if studio.catalogues is None:
            studio.catalogues = Catalogues(Place.find(deployment.build, Path(deployment.server.facts)))
        return studio.catalogues.known()


def own_columns(studio: Studio) -> list[str]:
    """The shop's own columns, by which products are boosted and buried."""
    return list(studio.deployment.shop.facts.now().columns)


def address(view: View, draft: Draft, **more: Any) -> str:
    """Address of the rules with a view and a draft."""
    fields = [*view.fields, *([("draft", draft.text)] if draft.rules else []), *more.items()]
    return f"/rules?{urlencode(fields)}" if fields else "/rules"


def sample_views(shop: Shop, count: int) -> list[View]:
    """Shoppers of the events; without events, made-up ones who bought what sells."""
    if shop.shoppers is not None:
        return [View(shopper=name) for name in shop.shoppers.sample(count)]
    best = shop.store.popularity.argsort()[::-1][: 3 * count].tolist()
    ids = [shop.store.product_ids[row] for row in best]
    return [View(add=tuple(ids[place :: max(1, len(ids) // 3)][:3])) for place in range(min(count, len(ids)))]


def _before_and_after(studio: Studio, view: View, draft: Draft) -> dict[str, Any]:
    shop = studio.deployment.shop
    person = Person.of(view, shop)
    before = studio.deployment.page(person.ask(view))
    after = studio.deployment.page(person.ask(view, draft.document()))
    noted(studio, before)
    noted(studio, after)
    return {
        "before": drawn(before, shop, person.why),
        "after": drawn(after, shop, person.why),
        "difference": difference(before, after),
        "before_ms": 1000 * before.seconds,
        "after_ms": 1000 * after.seconds,
        "unknown": after.status.document.get("unknown_rules", []),
    }


def _try(studio: Studio, job: Job, draft: Draft, views: list[View]) -> Preview:
    shop, rules = studio.deployment.shop, draft.document()
    found: list[tuple[View, Difference]] = []
    before_ms, after_ms, failed = list[float](), list[float](), 0
    for view in views:
        person = Person.of(view, shop)
        try:
            before = studio.deployment.page(person.ask(view))
            after = studio.deployment.page(person.ask(view, rules))
        except EndcapError as error:
            failed += 1
            if failed == len(views) or failed > 10 > len(found):
                raise StudioError(f"{failed} pages failed: {error}") from None
        else:
            found.append((view, difference(before, after)))
            before_ms.append(1000 * before.seconds)
            after_ms.append(1000 * after.seconds)
        job.step()
    return Preview(
        len(found),
        failed,
        sum(each.changed for _, each in found),
        fmean(each.new_products / max(1, each.products) for _, each in found),
        fmean(each.moved_products / max(1, each.products) for _, each in found),
        fmean(len(each.new_titles) for _, each in found),
        median(before_ms),
        median(after_ms),
        tuple(sorted(found, key=lambda pair: -pair[1].new_products - 0.1 * pair[1].moved_products)[:5]),
    )


def signed(author: str, reason: str) -> tuple[str, str]:
    """The name of who decides, and why.

    Raises:
        StudioError: One of them is missing.
    """
    if not author or not reason:
        raise StudioError("a rule needs the name of who sets it, and a reason")
    return author, reason


def _named(shop: Shop, rule: StandingRule) -> str:
    """What a rule names, with the title of a product."""
    row = shop.row(rule.name) if rule.about == "product" else -1
    return f"{rule.name}, {shop.title(row)}" if row >= 0 else rule.name


def _span(rule: StandingRule) -> str:
    start, end = (None if each is None else utc_time(each)[:16].replace("T", " ") for each in (rule.start, rule.end))
    if start is None and end is None:
        return "from now on, without end"
    return " ".join(part for part in (f"from {start}" if start else "", f"until {end}" if end else "") if part) + " UTC"
