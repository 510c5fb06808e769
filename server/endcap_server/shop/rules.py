"""Merchandising rules of a request: the RULES document of the contract and what it means for rows of the item store."""

from collections.abc import Callable
from typing import Annotated, Any, Self

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

from endcap_server.shop.text import folded_name, plain_text

MAX_PINS = 100
MAX_NAMES = 5000
MAX_REQUIRED_THEMES = 16
MAX_BOOST = 100.0
MAX_TITLE = 60
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


def category_path(category: str) -> tuple[str, ...]:
    """The folded names of a category and of those above it."""
    return tuple(folded_name(part) for part in category.split(">"))


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
            subject = (
                kind,
                category_path(value) if kind == "category" else value if kind == "product" else folded_name(value),
            )
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


_MEMBERS: dict[Any, type[BaseModel]] = {"exclude": Exclude, "only": Only, "price": PriceRange}
