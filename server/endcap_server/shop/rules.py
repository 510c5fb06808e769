"""Merchandising rules of a request: the RULES document of the contract and what it means for rows of the item store."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain
from typing import Annotated, Any, Self

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from endcap_server.shop.store import ItemStore
from endcap_server.shop.text import folded_name, plain_text

MAX_PINS = 100
MAX_NAMES = 5000
MAX_REQUIRED_THEMES = 16
MAX_BOOST = 100.0
MAX_TITLE = 60
_REMEMBERED = 32
SUBJECTS = ("brand", "category", "product", "column")
OF_NAMES = ("exclude", "only")
"""Members of the rules that decide what no text of a page may name."""


def _title(text: str) -> str:
    title = plain_text(text)
    # NFKC can remove characters, and replace one character by several.
    if not 1 <= len(title) <= MAX_TITLE:
        raise ValueError(f"titles of 1 to {MAX_TITLE} characters, not {_shown(text)}")
    return title


Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Title = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_TITLE), AfterValidator(_title)
]
Factors = dict[Name, float]


def _distinct(values: Any) -> Any:
    # Only to drop repetitions: anything that is not a list of texts is left for pydantic to describe.
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return tuple(dict.fromkeys(values))
    return tuple(values) if isinstance(values, list) else values


Names = Annotated[tuple[Name, ...], BeforeValidator(_distinct), Field(max_length=MAX_NAMES)]


class Exclude(BaseModel):
    """What must not be shown: product ids, brand names, category path prefixes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    products: Names = ()
    brands: Names = ()
    categories: Names = ()


class Only(BaseModel):
    """What alone may be shown: brand names, category path prefixes; a product must be of one of each kind given."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    brands: Names = ()
    categories: Names = ()


class PriceRange(BaseModel):
    """Least and largest price of what may be shown; products without a known price may not."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    min: float = Field(default=0.0, ge=0)
    max: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"a max of at least min, not {self.max:g} below {self.min:g}")
        return self


class MerchandisingRules(BaseModel):
    """The RULES document; unknown keys are refused.

    ``boost`` and ``bury`` multiply the score of what they name: "brand:NAME", "category:PATH" or "product:ID". Names of
    brands and categories are compared without case; a category names itself and all below it ("home > lamps").
    "column:NAME" stands for all products: those with a high value in this column get the factor, those with a low one
    1, and those between in proportion.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    pin: Annotated[tuple[Name, ...], BeforeValidator(_distinct), Field(max_length=MAX_PINS)] = ()
    exclude: Exclude = Exclude()
    only: Only = Only()
    price: PriceRange | None = None
    least_in_stock: float = Field(default=0.0, ge=0, le=1)
    boost: Annotated[Factors, Field(max_length=MAX_NAMES)] = {}
    bury: Annotated[Factors, Field(max_length=MAX_NAMES)] = {}
    max_per_brand: int | None = Field(default=None, ge=1, le=1000)
    campaign: Annotated[str, StringConstraints(max_length=200), AfterValidator(plain_text)] = ""
    required_themes: Annotated[
        tuple[Title, ...], BeforeValidator(_distinct), Field(max_length=MAX_REQUIRED_THEMES)
    ] = ()

    @field_validator("boost", "bury")
    @classmethod
    def _check_subjects(cls, factors: Factors) -> Factors:
        seen: dict[tuple[str, str | tuple[str, ...]], str] = {}
        for name in factors:
            kind, separator, value = name.partition(":")
            if kind not in SUBJECTS or not separator or not value.strip():
                raise ValueError(f"keys like brand:NAME, category:PATH, product:ID or column:NAME, not {name!r}")
            # Factors multiply, so two spellings of one name would count twice.
            subject = (kind, _path(value) if kind == "category" else value if kind == "product" else folded_name(value))
            if (other := seen.setdefault(subject, name)) != name:
                raise ValueError(f"each {kind} once, not {name!r} beside {other!r}")
        return factors

    @field_validator("boost")
    @classmethod
    def _check_boost(cls, factors: Factors) -> Factors:
        for name, factor in factors.items():
            if not 1 <= factor <= MAX_BOOST:
                raise ValueError(f"factors from 1 to {MAX_BOOST:g} (2 doubles the score), not {factor:g} of {name!r}")
        return factors

    @field_validator("bury")
    @classmethod
    def _check_bury(cls, factors: Factors) -> Factors:
        for name, factor in factors.items():
            if not 0 <= factor <= 1:
                raise ValueError(f"factors from 0 to 1 (0.2 leaves a fifth of the score), not {factor:g} of {name!r}")
        return factors

    def canonical(self) -> dict[str, Any]:
        """The rules without empty members, in a form that is equal for equal rules."""
        document = self.model_dump(mode="json", exclude_defaults=True)
        for member in ("exclude", "only"):
            document[member] = {key: sorted(names) for key, names in document.get(member, {}).items() if names}
        return {key: value for key, value in document.items() if value not in ({}, [], "", None)}

    def of_themes(self) -> dict[str, Any]:
        """The part of the rules on which themes and keywords depend; it is a part of their cache keys."""
        return {
            key: value for key, value in self.canonical().items() if key in ("campaign", "required_themes", *OF_NAMES)
        }


Amendment = Callable[[MerchandisingRules], MerchandisingRules]


def read_rules(document: bytes | str) -> MerchandisingRules:
    """Parse a RULES document.

    Raises:
        RulesError: Not JSON, or not what the contract allows; says where, what was expected and what came.
    """
    try:
        return MerchandisingRules.model_validate_json(document)
    except ValidationError as error:
        raise RulesError.of(error) from None


class RulesError(ValueError):
    """A RULES document that the contract does not allow."""

    def __init__(self, expected: str, got: str):
        super().__init__(f"expected {expected}, got {got}")
        self.expected = expected
        self.got = got

    @classmethod
    def of(cls, error: ValidationError) -> "RulesError":
        """Convert the first error of pydantic."""
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part != "[key]")
        message = str(first["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
        if first["type"] == "json_invalid":
            return cls("one JSON object", f"text that is not JSON ({message.removeprefix('Invalid JSON: ')})")
        if first["type"] == "extra_forbidden":
            parent = first["loc"][:-1]
            known = (_MEMBERS.get(parent[0]) if parent else None) or MerchandisingRules
            return cls(
                f"the keys {', '.join(known.model_fields)}" + (f" in {parent[0]}" if parent else ""),
                f"{first['loc'][-1]!r}",
            )
        if not place:
            return cls("one JSON object", _shown(first.get("input")))
        if first["type"] == "value_error":
            expected, _, got = message.rpartition(", not ")
            return cls(f"{expected} in {place}", got)
        return cls(f"{message} in {place}", _shown(first.get("input")))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _path(category: str) -> tuple[str, ...]:
    return tuple(folded_name(part) for part in category.split(">"))


def _banned(excluded: np.ndarray, only: np.ndarray | None, count: int) -> np.ndarray:
    return excluded if only is None else np.union1d(excluded, np.setdiff1d(np.arange(count), only))


_MEMBERS: dict[Any, type[BaseModel]] = {"exclude": Exclude, "only": Only, "price": PriceRange}


class RuleIndex:
    """Finds the brands and categories that rules name; created once per store."""

    def __init__(self, store: ItemStore):
        self.store = store
        self._compiled = lru_cache(maxsize=_REMEMBERED)(self._compile)

    @cached_property
    def brands(self) -> dict[str, list[int]]:
        """Brand positions by folded name."""
        found: dict[str, list[int]] = {}
        for position, brand in enumerate(self.store.brands):
            found.setdefault(folded_name(brand), []).append(position)
        return found

    @cached_property
    def categories(self) -> dict[tuple[str, ...], list[int]]:
        """Category positions by each prefix of their folded path."""
        found: dict[tuple[str, ...], list[int]] = {}
        for position, category in enumerate(self.store.categories):
            path = _path(category)
            for length in range(1, len(path) + 1):
                found.setdefault(path[:length], []).append(position)
        return found

    def names(self, kind: str, name: str) -> bool:
        """Whether the store has the product, brand or category of this id or name; of categories also one above."""
        if kind == "product":
            return bool(self.store.product_ids.find([name])[0] >= 0)
        return folded_name(name) in self.brands if kind == "brand" else _path(name) in self.categories

    def compile(self, rules: MerchandisingRules, standing: Amendment | None = None) -> "CompiledRules":
        """Look up in the store everything that rules name; the results of the latest rules are cached.

        Args:
            rules: Of the request.
            standing: Adds what stands below them (`standing_rules.Standing.under`).
        """
        return self._compiled(rules.model_dump_json(exclude_defaults=True), standing)

    def _compile(self, document: str, standing: "Amendment | None") -> "CompiledRules":
        rules = MerchandisingRules.model_validate_json(document)
        if standing is None:
            return self.look_up(rules)
        # Callers are told what they themselves named in vain.
        return replace(self.look_up(standing(rules)), unknown=self._compiled(document, None).unknown)

    def look_up(self, rules: MerchandisingRules) -> "CompiledRules":
        """The same, without the cache."""
        unknown_names: list[str] = []

        def rows(ids: tuple[str, ...]) -> np.ndarray:
            found = self.store.product_ids.find(list(ids)) if ids else np.empty(0, np.int64)
            unknown_names.extend(f"product:{name}" for name, row in zip(ids, found, strict=True) if row < 0)
            return found[found >= 0].astype(np.int32)

        def brands(name: str) -> list[int]:
            if not (found := self.brands.get(folded_name(name), [])):
                unknown_names.append(f"brand:{name}")
            return found

        def categories(name: str) -> list[int]:
            if not (found := self.categories.get(_path(name), [])):
                unknown_names.append(f"category:{name}")
            return found

        compiled = CompiledRules(
            store=self.store,
            rules=rules,
            pins=rows(rules.pin),
            excluded_rows=rows(rules.exclude.products),
            excluded_brands=_positions(brands(name) for name in rules.exclude.brands),
            excluded_categories=_positions(categories(name) for name in rules.exclude.categories),
            only_brands=_kept(map(brands, rules.only.brands)),
            only_categories=_kept(map(categories, rules.only.categories)),
            price=rules.price,
            least_in_stock=rules.least_in_stock,
            max_per_brand=rules.max_per_brand,
            unknown=unknown_names,
        )
        of_products: list[tuple[str, float]] = []
        for name, factor in (*rules.boost.items(), *rules.bury.items()):
            kind, _, value = name.partition(":")
            if kind == "brand":
                compiled.add_factor(compiled.brand_factors, brands(value), factor)
            elif kind == "category":
                compiled.add_factor(compiled.category_factors, categories(value), factor)
            elif kind == "column":
                compiled.column_factors[value.strip()] = factor * compiled.column_factors.get(value.strip(), 1.0)
            else:
                of_products.append((value, factor))
        # One look-up for all: single look-ups would take most of the time for a thousand rules.
        found = self.store.product_ids.find([value for value, _ in of_products]).tolist() if of_products else []
        for (value, factor), row in zip(of_products, found, strict=True):
            if row < 0:
                unknown_names.append(f"product:{value}")
            else:
                compiled.add_factor(compiled.row_factors, [row], factor)
        return compiled


def _kept(found: Iterable[list[int]]) -> np.ndarray | None:
    """What is named; None if nothing is asked for, which is not the same as names that nothing has."""
    lists = list(found)
    return _positions(lists) if lists else None


def _positions(found: Iterable[list[int]]) -> np.ndarray:
    return np.unique(np.fromiter(chain.from_iterable(found), np.int32))


@dataclass(frozen=True)
class CompiledRules:
    """Rules as rows, positions and factors of one store; ``rules`` are the rules themselves.

    ``unknown`` lists what the store does not have, as "product:ID", "brand:NAME" or "category:PATH".
    """

    store: ItemStore
    rules: MerchandisingRules
    pins: np.ndarray
    excluded_rows: np.ndarray
    excluded_brands: np.ndarray
    excluded_categories: np.ndarray
    max_per_brand: int | None
    unknown: list[str]
    only_brands: np.ndarray | None = None
    only_categories: np.ndarray | None = None
    price: PriceRange | None = None
    least_in_stock: float = 0.0
    brand_factors: dict[int, float] = field(default_factory=dict)
    category_factors: dict[int, float] = field(default_factory=dict)
    row_factors: dict[int, float] = field(default_factory=dict)
    column_factors: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def add_factor(factors: dict[int, float], positions: list[int], factor: float) -> None:
        """Multiply a factor onto ``positions``."""
        for position in positions:
            factors[position] = factors.get(position, 1.0) * factor

    @cached_property
    def of_themes(self) -> dict[str, Any]:
        """See :meth:`MerchandisingRules.of_themes`."""
        return self.rules.of_themes()

    @property
    def unknown_products(self) -> int:
        """Number of distinct product ids that the store does not have."""
        return len({name for name in self.unknown if name.startswith("product:")})

    def allowed(self, rows: np.ndarray) -> np.ndarray:
        """Which of ``rows`` (int [k], each a row of the store) may be shown: bool [k]."""
        allowed = np.ones(len(rows), dtype=bool)
        if len(self.excluded_rows):
            allowed &= ~np.isin(rows, self.excluded_rows)
        if len(self.excluded_brands):
            allowed &= ~np.isin(self.store.brand[rows], self.excluded_brands)
        if len(self.excluded_categories):
            allowed &= ~np.isin(self.store.category[rows], self.excluded_categories)
        if self.only_brands is not None:
            allowed &= np.isin(self.store.brand[rows], self.only_brands)
        if self.only_categories is not None:
            allowed &= np.isin(self.store.category[rows], self.only_categories)
        return allowed

    def affords(self, price: np.ndarray, share: np.ndarray) -> np.ndarray | None:
        """Which products have a price and stock that the rules allow: bool [k]; None if these do not matter.

        Args:
            price: float [k], NaN unknown.
            share: float [k], share of each product's variants that is in stock.
        """
        if self.price is None:
            return share >= self.least_in_stock if self.least_in_stock else None
        highest = np.inf if self.price.max is None else self.price.max
        # Prices are float32; a limit of 9.99 must include a price of 9.99.
        low, high = np.float32(self.price.min), np.float32(highest)
        found: np.ndarray = (price >= low) & (price <= high) & (share >= self.least_in_stock)
        return found

    @cached_property
    def banned_brands(self) -> np.ndarray:
        """Positions of the brands of which nothing may be shown: int [k]."""
        return _banned(self.excluded_brands, self.only_brands, len(self.store.brands))

    @cached_property
    def banned_categories(self) -> np.ndarray:
        """Positions of the categories of which nothing may be shown: int [k]."""
        return _banned(self.excluded_categories, self.only_categories, len(self.store.categories))

    def mask(self) -> np.ndarray:
        """Which of all products of the store these rules allow: bool [n]."""
        mask = np.ones(len(self.store), dtype=bool)
        mask[self.excluded_rows] = False
        for column, names, excluded, only in (
            (self.store.brand, self.store.brands, self.excluded_brands, self.only_brands),
            (self.store.category, self.store.categories, self.excluded_categories, self.only_categories),
        ):
            if len(excluded) or only is not None:
                # The last entry belongs to -1, that is, to products without a brand or category.
                allowed = np.full(len(names) + 1, only is None)
                allowed[slice(0) if only is None else only] = True
                allowed[excluded] = False
                mask &= allowed[column]
        return mask

    def factors(self, rows: np.ndarray, scaled: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """The factors of boost and bury for the scores of ``rows``: float32 [k], at most `MAX_BOOST`.

        1 for products without a rule.

        Args:
            rows: int [k].
            scaled: Column -> float [k], 0..1, where ``rows`` stand between its low and its high values.
        """
        factors = np.ones(len(rows), dtype=np.float64)
        for column, by_position in (
            (self.store.brand, self.brand_factors),
            (self.store.category, self.category_factors),
            (None, self.row_factors),
        ):
            if by_position:
                values = rows if column is None else column[rows]
                factors *= np.array([by_position.get(value, 1.0) for value in values.tolist()])
        for name, values in (scaled or {}).items():
            factors *= 1 + (self.column_factors.get(name, 1.0) - 1) * values
        return np.minimum(factors, MAX_BOOST).astype(np.float32)
