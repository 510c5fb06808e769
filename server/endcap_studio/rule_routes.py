"""Rules: drafted, tried on one page and on a hundred, published as standing rules, taken back."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from endcap_client import Page
from endcap_server.facts.catalogues import Catalogues
from endcap_server.facts.place import Place
from endcap_server.facts.records import KnownNames
from endcap_server.shop.facts_state import FactsWriter, RuleChange
from endcap_server.shop.standing_rules import RuleKind, StandingRule
from endcap_server.stages.status import utc_time
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from endcap_studio import trials
from endcap_studio.app import Studio, studio_of
from endcap_studio.deployment import Ask
from endcap_studio.differences import difference
from endcap_studio.drafts import CHOICES, Draft, NewRule, checked, said
from endcap_studio.errors import StudioError
from endcap_studio.page_routes import noted
from endcap_studio.security import FormOf, text_of
from endcap_studio.shop import Shop
from endcap_studio.trials import sample_views
from endcap_studio.views import Person, View, drawn

router = APIRouter()
ViewOf = Annotated[View, Depends(View.read)]
_SHOWN = 200
"""Standing rules that are listed at once."""
_NAMES = 12
_MOST_DRAFT = 30_000


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
    standing = shop.facts.rules()
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
        sample=trials.SAMPLE,
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
def preview(request: Request, form: FormOf) -> Response:
    """Begin to try the draft on many shoppers."""
    studio = studio_of(request)
    drafted = Draft.read(text_of(form, "draft", _MOST_DRAFT), known_names(studio), own_columns(studio))
    if not drafted.rules:
        raise StudioError("the draft is empty; add a rule first")
    deployment, rules = studio.deployment, drafted.document()
    shop = deployment.shop
    views = sample_views(shop, trials.SAMPLE)

    def after(ask: Ask) -> Page:
        return deployment.page(replace(ask, rules=rules))

    job = studio.jobs.start("preview", lambda job: trials.try_on(shop, job, views, deployment.page, after), len(views))
    return studio.render(request, "job.jinja", job=job)


@router.post("/rules/publish")
def publish(request: Request, form: FormOf) -> Response:
    """Make the draft stand."""
    studio = studio_of(request)
    known, columns = known_names(studio), own_columns(studio)
    drafted = Draft.read(text_of(form, "draft", _MOST_DRAFT), known, columns)
    if not drafted.rules:
        raise StudioError("the draft is empty; add a rule first")
    author, reason = signed(text_of(form, "author"), text_of(form, "reason"))
    set_rules(studio, checked(drafted.records(author, reason), known, columns))
    view = View.of_form(form)
    return RedirectResponse(address(view, Draft(), done="published"), 303)


@router.post("/rules/take-back")
def take_back(request: Request, form: FormOf) -> Response:
    """End a standing rule."""
    studio = studio_of(request)
    kind, subject = text_of(form, "rule"), text_of(form, "subject")
    standing = studio.deployment.shop.facts.rules()
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


def side_by_side(studio: Studio, person: Person, before: Page, after: Page) -> dict[str, Any]:
    """Two pages of a person for the template `pages.jinja`."""
    shop = studio.deployment.shop
    noted(studio, before)
    noted(studio, after)
    return {
        "before": drawn(before, shop, person.why),
        "after": drawn(after, shop, person.why),
        "difference": difference(before, after),
        "before_ms": 1000 * before.seconds,
        "after_ms": 1000 * after.seconds,
        "unknown": [],
    }


def _before_and_after(studio: Studio, view: View, draft: Draft) -> dict[str, Any]:
    person = Person.of(view, studio.deployment.shop)
    before = studio.deployment.page(person.ask(view))
    after = studio.deployment.page(person.ask(view, draft.document()))
    found = side_by_side(studio, person, before, after)
    return found | {"unknown": after.status.document.get("unknown_rules", [])}


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
