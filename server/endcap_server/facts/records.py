"""Records of facts as users send them, checked: stock and prices of products, and standing rules."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from endcap_server.declared.parameters import describe_validation
from endcap_server.shop.facts import IN_STOCK, PRICE
from endcap_server.shop.facts_state import FactChange, RuleChange
from endcap_server.shop.rule_index import RuleIndex
from endcap_server.shop.standing_rules import StandingRule
from endcap_server.shop.store import ItemStore

CLOCK_SLACK_S = 60.0
"""How far the clock of a sender may be ahead."""
_MOST_ID_BYTES = 256


def _seconds(value: Any) -> Any:
    """Convert a time (ISO 8601 text, datetime, seconds or milliseconds; UTC without a zone) to seconds since 1970."""
    if value is None or isinstance(value, bool):
        return value
    moment = _DATETIME.validate_python(value)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_DATETIME = TypeAdapter(datetime)
_NUMBERS = TypeAdapter(dict[str, FiniteFloat])
_Time = Annotated[float | None, BeforeValidator(_seconds)]


class _Product(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    product_id: Annotated[str, BeforeValidator(_text), Field(min_length=1)]
    stock: float | None = Field(None, ge=0)
    in_stock: float | None = Field(None, ge=0, le=1)
    price: float | None = Field(None, ge=0)
    time: _Time = None


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rule: Any
    subject: Annotated[Any, BeforeValidator(_text)] = None
    factor: float | None = None
    to: Any = None
    start: _Time = None
    end: _Time = None
    reason: Any = None
    author: Any = None
    remove: bool = False
    time: _Time = None


@dataclass(frozen=True)
class Problem:
    """What is wrong with a record.

    Attributes:
        row: Number of the record.
        what: Its field, or what the record is about.
        expected: What may stand there.
        got: What stands there.
        advice: What to do.
    """

    row: int
    what: str
    expected: str
    got: str
    advice: str = ""

    def __str__(self) -> str:
        return f"row {self.row}, {self.what}: expected {self.expected}, got {self.got}" + (
            f"; {self.advice}" if self.advice else ""
        )


RESERVED = frozenset({*_Product.model_fields, *_Rule.model_fields})
"""Fields of records that are no columns of the shop's own."""


class KnownNames:
    """The products, brands and categories of the catalogues that a deployment serves."""

    def __init__(self, stores: Iterable[ItemStore]) -> None:
        self._indexes = [RuleIndex(store) for store in stores]

    def products(self, ids: list[str]) -> set[str]:
        """Those of ``ids`` that a catalogue has."""
        found: set[str] = set()
        for index in self._indexes:
            rows = index.store.product_ids.find(ids).tolist()
            found.update(product for product, row in zip(ids, rows, strict=True) if row >= 0)
        return found

    def has(self, rule: StandingRule) -> bool:
        """Whether a catalogue has the product, brand or category that a rule names."""
        return any(index.names(rule.about, rule.name) for index in self._indexes)


@dataclass
class CheckedRecords:
    """Records of one file or batch.

    Attributes:
        changes: Of products.
        rules: Standing rules.
        problems: What is wrong, by row.
    """

    changes: list[FactChange] = field(default_factory=list)
    rules: list[RuleChange] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def check_records(
    records: Iterable[tuple[int, Mapping[str, Any] | Problem]],
    known: KnownNames,
    clock: Callable[[], float] = time.time,
    columns: Collection[str] = (),
) -> CheckedRecords:
    """Check records.

    Args:
        records: Row number and fields of each, or what is wrong with it already; fields without a value are left out.
        known: What the catalogue has.
        clock: Seconds since 1970, the time of records without one.
        columns: The shop's own columns, which records of products may have besides.
    """
    found, now = CheckedRecords(), clock()
    products: list[tuple[int, _Product, dict[str, float]]] = []
    for row, fields in records:
        if isinstance(fields, Problem):
            found.problems.append(fields)
            continue
        try:
            if "rule" in fields:
                _take_rule(found, row, _Rule.model_validate(fields), known, columns)
            else:
                own = {name: fields[name] for name in columns if name in fields}
                rest = {name: value for name, value in fields.items() if name not in own} if own else fields
                numbers = _NUMBERS.validate_python(own) if own else {}
                products.append((row, _Product.model_validate(rest), numbers))
        except ValidationError as error:
            found.problems.append(_problem(row, error, fields))
    names = known.products(list({product.product_id for _, product, _ in products}))
    for row, product, numbers in products:
        problem = _problem_of_product(row, product, bool(numbers), names, now)
        if problem is None:
            found.changes += _changes(product, numbers, now)
        else:
            found.problems.append(problem)
    found.problems.sort(key=lambda problem: problem.row)
    return found


def _changes(product: _Product, numbers: Mapping[str, float], now: float) -> Iterable[FactChange]:
    # A sender whose clock is ahead must not hold off the next change.
    moment = now if product.time is None else min(product.time, now)
    share = product.in_stock if product.stock is None else float(product.stock > 0)
    for column, value in ((IN_STOCK, share), (PRICE, product.price), *numbers.items()):
        if value is not None:
            yield FactChange(product.product_id, column, value, moment)


def _problem_of_product(row: int, product: _Product, has_numbers: bool, known: set[str], now: float) -> Problem | None:
    if product.product_id not in known:
        return Problem(
            row,
            "product_id",
            "a product of the catalogue that is served",
            repr(product.product_id[:_MOST_ID_BYTES]),
            "build with the product first (endcap build, endcap apply), or leave it out",
        )
    if product.time is not None and product.time > now + CLOCK_SLACK_S:
        ahead = product.time - now
        return Problem(row, "time", "a time that is not in the future", f"one {ahead:.0f} s ahead", "check the clocks")
    if product.stock is not None and product.in_stock is not None:
        return Problem(row, "stock", "stock or in_stock", "both")
    if product.stock is None and product.in_stock is None and product.price is None and not has_numbers:
        return Problem(row, "record", "stock, in_stock, price or a column", f"only {product.product_id!r}")
    return None


def _take_rule(found: CheckedRecords, row: int, record: _Rule, known: KnownNames, columns: Collection[str]) -> None:
    fields = record.model_dump(exclude={"remove", "time"}, exclude_none=True)
    if record.remove:
        # Which rule is meant is said by its kind and subject alone.
        neutral: dict[str, Any] = {"factor": 1.0} if fields.get("rule") in ("boost", "bury") else {}
        neutral |= {"to": "removed"} if fields.get("rule") == "rewrite" else {}
        fields = {"reason": "removed", **fields, **neutral}
    rule = StandingRule.model_validate(fields)
    kind = rule.about
    if kind == "column":
        has, what = rule.name in columns, f"one of the columns {', '.join(columns) or '(there are none)'}"
    else:
        # Every title and text may come.
        has = kind not in ("product", "brand", "category") or known.has(rule)
        what = f"a {kind} of the catalogue that is served"
    if not record.remove and not has:
        found.problems.append(Problem(row, "subject", what, repr(rule.name)))
        return
    found.rules.append(RuleChange(rule, record.remove))


def _problem(row: int, error: ValidationError, fields: Mapping[str, Any]) -> Problem:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "record"
    if first["type"] == "extra_forbidden":
        model = _Rule if "rule" in fields else _Product
        return Problem(row, "record", "the fields " + ", ".join(model.model_fields), repr(name))
    if first["type"] == "missing":
        return Problem(row, name, "a value", "none")
    message = describe_validation(first)
    if first["type"] == "value_error":
        expected, _, got = message.rpartition(", not ")
        return Problem(row, name, expected, got)
    return Problem(row, name, message, repr(first.get("input")))
