"""Standing rules: what merchandisers decide for every request, each from a start to an end."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from endcap_server.shop.facts_journal import FactsError
from endcap_server.shop.rules import (
    MAX_BOOST,
    MAX_PINS,
    MAX_REQUIRED_THEMES,
    MAX_TITLE,
    Exclude,
    MerchandisingRules,
    PriceRange,
)
from endcap_server.shop.text import folded_name, plain_text

MAX_STANDING = 1000
"""Most standing rules, those of the future included, approvals left out."""
MAX_APPROVED = 10_000
"""Most approved titles."""
_MAX_CAMPAIGN = 200


class RuleKind(StrEnum):
    """What a standing rule does."""

    PIN = "pin"
    BOOST = "boost"
    BURY = "bury"
    BAN = "ban"
    PRICE = "price"
    CAMPAIGN = "campaign"
    REQUIRE = "require"
    REWRITE = "rewrite"
    APPROVE = "approve"


_STOREFRONT_ONLY = (RuleKind.PIN, RuleKind.CAMPAIGN, RuleKind.REQUIRE)

_PLACEHOLDERS = {"product": "ID", "title": "TEXT", "campaign": "TEXT", "price": "LEAST..MOST"}
SUBJECTS = {
    RuleKind.PIN: ("product",),
    RuleKind.BOOST: ("product", "brand", "category", "column"),
    RuleKind.BURY: ("product", "brand", "category", "column"),
    RuleKind.BAN: ("product", "brand", "category", "title"),
    RuleKind.PRICE: ("price",),
    RuleKind.CAMPAIGN: ("campaign",),
    RuleKind.REQUIRE: ("title",),
    RuleKind.REWRITE: ("title",),
    RuleKind.APPROVE: ("title",),
}
"""What each kind of rule may name."""


class StandingRule(BaseModel):
    """One standing rule.

    Attributes:
        rule: What it does.
        subject: What it is about: "product:ID", "brand:NAME", "category:PATH", "column:NAME", "title:TEXT",
            "price:LEAST..MOST" (either may be missing) or "campaign:TEXT".
        factor: Of boost (1 to 100) and bury (0 to 1).
        to: Of rewrite, the title that is shown instead.
        start: When it begins to hold, in seconds since 1970; None: at once.
        end: When it ends; None: never.
        reason: Why it is there.
        author: Who set it; "" if unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rule: RuleKind
    subject: Annotated[str, StringConstraints(max_length=300)]
    factor: float | None = None
    to: str | None = None
    start: float | None = Field(None, ge=0)
    end: float | None = Field(None, ge=0)
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    author: Annotated[str, StringConstraints(strip_whitespace=True, max_length=100)] = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = SUBJECTS[self.rule]
        if self.about not in kinds or not self.name.strip():
            names = " or ".join(f"{kind}:{_PLACEHOLDERS.get(kind, 'NAME')}" for kind in kinds)
            raise ValueError(f"as subject of {self.rule} {names}, not {self.subject!r}")
        most = MAX_TITLE if self.rule is RuleKind.REQUIRE else MAX_TITLE * 2
        if self.about == "title" and len(plain_text(self.name)) > most:
            raise ValueError(f"a title of at most {most} characters, not {len(self.name)}")
        self._check_members()
        low, high = (1.0, MAX_BOOST) if self.rule is RuleKind.BOOST else (0.0, 1.0)
        if self.rule in (RuleKind.BOOST, RuleKind.BURY):
            if self.factor is None or not low <= self.factor <= high:
                raise ValueError(f"as factor of {self.rule} a number from {low:g} to {high:g}, not {self.factor}")
        elif self.factor is not None:
            raise ValueError(f"no factor for {self.rule}, not {self.factor:g}")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise ValueError("an end after the start, not one before it")
        return self

    def _check_members(self) -> None:
        """Check what only one kind has."""
        if self.rule is RuleKind.PRICE and self.price is None:
            raise ValueError(f"as subject of price price:LEAST..MOST, such as price:5..20, not {self.subject!r}")
        if self.about == "campaign" and len(plain_text(self.name)) > _MAX_CAMPAIGN:
            raise ValueError(f"a campaign of at most {_MAX_CAMPAIGN} characters, not {len(self.name)}")
        if self.rule is not RuleKind.REWRITE:
            if self.to is not None:
                raise ValueError(f"no other title for {self.rule}, not {self.to!r}")
        elif not 1 <= len(plain_text(self.to or "").strip()) <= MAX_TITLE:
            raise ValueError(f"as other title 1 to {MAX_TITLE} characters, not {self.to!r}")

    @property
    def price(self) -> PriceRange | None:
        """The range that a price rule means; None for another kind, or another text."""
        least, dots, most = self.name.partition("..")
        if self.about != "price" or not dots or not (least.strip() or most.strip()):
            return None
        try:
            return PriceRange(min=float(least or 0.0), max=float(most) if most.strip() else None)
        except ValueError:
            return None

    @property
    def about(self) -> str:
        """What kind of thing it names."""
        return self.subject.partition(":")[0]

    @property
    def name(self) -> str:
        """The product's id, the name or the title."""
        return self.subject.partition(":")[2]

    @property
    def key(self) -> tuple[str, str]:
        """Equal for rules of which only one can stand."""
        return self.rule, subject_key(self.subject)

    def names(self, product: str, brand: str, category: str) -> bool:
        """Whether it applies to a product of this id, brand and category path."""
        if self.about == "category":
            own, path = subject_key(self.subject), subject_key(f"category:{category}")
            return path == own or path.startswith(f"{own}>")
        said = {"product": product, "brand": brand}.get(self.about)
        return said is not None and subject_key(f"{self.about}:{said}") == subject_key(self.subject)

    def holds(self, now: float) -> bool:
        """Whether it holds at a time, in seconds since 1970."""
        return (self.start is None or self.start <= now) and (self.end is None or now < self.end)


def subject_key(subject: str) -> str:
    """A subject in a form that is equal for spellings of the same thing; product ids are compared exactly."""
    kind, _, name = subject.partition(":")
    if kind == "category":
        name = ">".join(folded_name(part) for part in name.split(">"))
    elif kind == "title":
        name = title_key(name)
    elif kind == "brand":
        name = folded_name(name)
    return f"{kind}:{name}"


def title_key(title: str) -> str:
    """A title in a form that is equal for spellings of it that differ in case or white space."""
    return " ".join(plain_text(title).casefold().split())


@dataclass(frozen=True, eq=False)
class Standing:
    """The standing rules that hold now.

    Attributes:
        rules: In the order in which they were set.
        until: When another set of rules holds, in seconds since 1970.
    """

    rules: tuple[StandingRule, ...] = ()
    until: float = float("inf")

    @classmethod
    def at(cls, rules: Iterable[StandingRule], now: float) -> "Standing":
        """Those of ``rules`` that hold at a time, in seconds since 1970."""
        every = tuple(rules)
        bounds = [bound for rule in every for bound in (rule.start, rule.end) if bound is not None and bound > now]
        return cls(tuple(rule for rule in every if rule.holds(now)), min(bounds, default=float("inf")))

    @cached_property
    def banned_titles(self) -> frozenset[str]:
        """Titles that no placement may have, by :func:`title_key`."""
        return frozenset(title_key(name) for name in self._names(RuleKind.BAN, "title"))

    def bans_title(self, title: str) -> bool:
        """Whether no placement may have this title."""
        return bool(self.banned_titles) and title_key(title) in self.banned_titles

    @cached_property
    def rewritten_titles(self) -> dict[str, str]:
        """By :func:`title_key` of a title, the one that is shown instead."""
        return {title_key(rule.name): plain_text(rule.to or "") for rule in self._of_kind(RuleKind.REWRITE)}

    def shown_title(self, title: str) -> str:
        """The title that is shown for one that a placement has."""
        return self.rewritten_titles.get(title_key(title), title) if self.rewritten_titles else title

    @cached_property
    def of_searches(self) -> "Standing":
        """The same without pins and themes: what a shopper searches for comes first."""
        return Standing(tuple(rule for rule in self.rules if rule.rule not in _STOREFRONT_ONLY), self.until)

    def under(self, rules: MerchandisingRules) -> MerchandisingRules:
        """The rules of a request with the standing rules below them.

        Bans and price ranges always hold. Pins and themes of the request come first, and of a factor for the same
        subject, or a campaign, the request's counts.
        """
        if not self.rules:
            return rules
        excluded: dict[str, Any] = {
            f"{kind}s": _joined(getattr(rules.exclude, f"{kind}s"), self._names(RuleKind.BAN, kind))
            for kind in ("product", "brand")
        } | {"categories": _joined(rules.exclude.categories, self._names(RuleKind.BAN, "category"))}
        pins = self._names(RuleKind.PIN, "product")
        said = {subject_key(subject) for subject in (*rules.boost, *rules.bury)}
        factors: dict[RuleKind, dict[str, float]] = {RuleKind.BOOST: {}, RuleKind.BURY: {}}
        for rule in self.rules:
            if rule.factor is not None and subject_key(rule.subject) not in said:
                factors[rule.rule][rule.subject] = rule.factor
        campaigns = self._names(RuleKind.CAMPAIGN, "campaign")[-1:]
        titles = tuple(map(plain_text, self._names(RuleKind.REQUIRE, "title")))
        required = _joined(rules.required_themes, titles)
        # Not validated again: limits are those of one request.
        return rules.model_copy(
            update={
                "pin": _joined(rules.pin, pins)[:MAX_PINS],
                "exclude": Exclude.model_construct(**excluded),
                "boost": {**rules.boost, **factors[RuleKind.BOOST]},
                "bury": {**rules.bury, **factors[RuleKind.BURY]},
                "price": self._price(rules.price),
                "campaign": rules.campaign or plain_text("".join(campaigns)),
                "required_themes": required[:MAX_REQUIRED_THEMES],
            }
        )

    def _price(self, asked: PriceRange | None) -> PriceRange | None:
        """What is within a range and those of the rules."""
        ranges = [each for each in (asked, *(rule.price for rule in self._of_kind(RuleKind.PRICE))) if each is not None]
        if not ranges:
            return None
        limits = [each.max for each in ranges if each.max is not None]
        return PriceRange.model_construct(min=max(each.min for each in ranges), max=min(limits, default=None))

    def _of_kind(self, kind: RuleKind) -> list[StandingRule]:
        return [rule for rule in self.rules if rule.rule is kind]

    def _names(self, kind: RuleKind, about: str) -> tuple[str, ...]:
        return tuple(rule.name for rule in self._of_kind(kind) if rule.about == about)


NOTHING_STANDS = Standing()


def read_rules(documents: Iterable[Mapping[str, Any]]) -> tuple[StandingRule, ...]:
    """Standing rules of their JSON objects in a journal.

    Raises:
        FactsError: Another version of endcap wrote them.
    """
    try:
        return tuple(StandingRule.model_validate(document) for document in documents)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise FactsError(
            f"standing rules: expected those of this version of endcap, got {first.get('input')!r} ({first['msg']}); "
            "another version has written them: use that one, or start with a new folder of facts"
        ) from None


def _joined(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))
