"""Rules that somebody drafts: in the address of the page, tried in requests, then published as standing rules."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from endcap_server.facts.records import KnownNames, check_records
from endcap_server.shop.standing_rules import RuleKind, StandingRule

from endcap_studio.errors import StudioError

MOST_RULES = 50
"""Most rules of a draft: its address must not become too long for browsers."""
CHOICES = (
    ("Pin", (("pin:product", "Pin a product first"),)),
    (
        "Raise",
        (
            ("boost:product", "Boost a product"),
            ("boost:brand", "Boost a brand"),
            ("boost:category", "Boost a category"),
            ("boost:column", "Boost by a column"),
        ),
    ),
    (
        "Lower",
        (
            ("bury:product", "Bury a product"),
            ("bury:brand", "Bury a brand"),
            ("bury:category", "Bury a category"),
            ("bury:column", "Bury by a column"),
        ),
    ),
    ("Ban", (("ban:product", "Ban a product"), ("ban:brand", "Ban a brand"), ("ban:category", "Ban a category"))),
    ("Limit", (("price:price", "Price range"),)),
    ("Themes", (("campaign:campaign", "Campaign for LLM 1"), ("require:title", "Require a theme"))),
)
"""What the form offers: groups of (kind:what it names, text)."""
TEXTS = {value: text for _, choices in CHOICES for value, text in choices}
_REASON = "a draft"


@dataclass(frozen=True)
class NewRule:
    """What the form for one rule holds, as text."""

    what: str = "ban:brand"
    name: str = ""
    factor: str = ""
    start: str = ""
    end: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """The record of facts that it means."""
        kind, _, about = self.what.partition(":")
        record: dict[str, Any] = {"rule": kind, "subject": f"{about}:{self.name.strip()}", "reason": _REASON}
        if kind in (RuleKind.BOOST, RuleKind.BURY):
            record["factor"] = self.factor.strip() or ("2" if kind == RuleKind.BOOST else "0.5")
        return record | {name: value for name, value in (("start", self.start), ("end", self.end)) if value}


@dataclass(frozen=True)
class Draft:
    """Rules of a draft, each kind and subject once."""

    rules: tuple[StandingRule, ...] = ()

    @classmethod
    def read(cls, text: str, known: KnownNames, columns: Sequence[str] = ()) -> Self:
        """The draft of an address.

        Raises:
            StudioError: It is none.
        """
        if not text:
            return cls()
        try:
            records = json.loads(text)
        except ValueError:
            records = None
        if not isinstance(records, list) or not all(isinstance(each, dict) for each in records):
            raise StudioError("the draft in this address cannot be read; start a new one")
        if len(records) > MOST_RULES:
            raise StudioError(
                f"expected at most {MOST_RULES} rules in a draft, got {len(records)}; publish it in parts, or set them "
                "by a file with `endcap facts set`"
            )
        return cls(checked([{**each, "reason": _REASON} for each in records], known, columns))

    @property
    def text(self) -> str:
        """The draft for an address; "" for an empty one."""
        return json.dumps([_record(rule) for rule in self.rules], ensure_ascii=False) if self.rules else ""

    def with_rule(self, rule: StandingRule) -> "Draft":
        """With one more rule, which replaces that of the same kind and subject.

        Raises:
            StudioError: There are too many.
        """
        kept = (*(each for each in self.rules if each.key != rule.key), rule)
        if len(kept) > MOST_RULES:
            raise StudioError(f"expected at most {MOST_RULES} rules in a draft; publish these first")
        return Draft(kept)

    def without(self, place: int) -> "Draft":
        """Without the rule at a place."""
        return Draft(tuple(rule for number, rule in enumerate(self.rules) if number != place))

    def records(self, author: str, reason: str) -> list[dict[str, Any]]:
        """Records of facts to publish."""
        return [{**_record(rule), "author": author, "reason": reason} for rule in self.rules]

    def document(self) -> dict[str, Any]:
        """RULES of a request that tries the draft, whenever its rules begin and end."""
        rules: dict[str, Any] = {}
        for rule in self.rules:
            about = rule.about
            if rule.rule is RuleKind.PIN:
                rules.setdefault("pin", []).append(rule.name)
            elif rule.rule is RuleKind.BAN:
                names = {"product": "products", "brand": "brands", "category": "categories"}[about]
                rules.setdefault("exclude", {}).setdefault(names, []).append(rule.name)
            elif rule.rule in (RuleKind.BOOST, RuleKind.BURY):
                rules.setdefault(str(rule.rule), {})[rule.subject] = rule.factor
            elif rule.price is not None:
                least, most = rule.price.min, rule.price.max
                known = rules.setdefault("price", {})
                known["min"] = max(least, known.get("min", 0.0))
                if most is not None:
                    known["max"] = min(most, known.get("max", most))
            elif rule.rule is RuleKind.CAMPAIGN:
                rules["campaign"] = rule.name
            else:
                rules.setdefault("required_themes", []).append(rule.name)
        return rules


def checked(
    records: Iterable[Mapping[str, Any]], known: KnownNames, columns: Sequence[str] = ()
) -> tuple[StandingRule, ...]:
    """Rules of records.

    Raises:
        StudioError: One of them is wrong.
    """
    found = check_records(enumerate(records, 1), known, columns=columns)
    if found.problems:
        problem = found.problems[0]
        what = "" if problem.what == "record" else f"{problem.what}: "
        raise StudioError(f"{what}expected {problem.expected}, got {problem.got}" + f"; {problem.advice}".rstrip("; "))
    return tuple(change.rule for change in found.rules)


def said(rule: StandingRule) -> str:
    """What a rule does, in words."""
    text = {
        RuleKind.REWRITE: f"Show “{rule.to}” for the title",
        RuleKind.APPROVE: "Approved title",
        RuleKind.BAN: f"Ban the {rule.about}",
    }.get(rule.rule) or TEXTS.get(f"{rule.rule}:{rule.about}", str(rule.rule))
    return text + (f" × {rule.factor:g}" if rule.factor is not None else "")


def _record(rule: StandingRule) -> dict[str, Any]:
    return rule.model_dump(mode="json", exclude_none=True, exclude={"reason", "author"})
