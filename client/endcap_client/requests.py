"""Requests as values, for batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Self, TypedDict

from endcap_client.errors import InvalidArgument
from endcap_client.options import Metadata
from endcap_client.types import Rules

RulesLike = Rules | Mapping[str, Any] | str | None
NO_METADATA: Metadata = MappingProxyType({})


class SearchArguments(TypedDict, total=False):
    """Arguments of `search` besides the query; see `Client.storefront`."""

    history: Sequence[str]
    rules: RulesLike
    products: int
    timeout_s: float | None
    budget_ms: int | None
    explain: bool
    metadata: Metadata
    shopper: str


class StorefrontArguments(TypedDict, total=False):
    """Arguments of `storefront` besides the history; see `Client.storefront`."""

    session: Sequence[str]
    rules: RulesLike
    placements: int
    products: int
    timeout_s: float | None
    budget_ms: int | None
    explain: bool
    metadata: Metadata
    shopper: str


@dataclass(frozen=True)
class _Request:
    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Return the request of a JSON object whose keys are names of fields.

        Raises:
            InvalidArgument: a key is no field, or a required one is missing.
        """
        names = [each.name for each in fields(cls)]
        unknown = [name for name in values if name not in names]
        if unknown:
            raise InvalidArgument.of("request", f"keys among {', '.join(names)}", ", ".join(map(repr, unknown)))
        try:
            return cls(**values)
        except TypeError as error:
            raise InvalidArgument.of("request", "every needed key", str(error)) from error


@dataclass(frozen=True)
class StorefrontRequest(_Request):
    """A storefront request, with the names and defaults of the arguments of `Client.storefront`."""

    history: Sequence[str] = ()
    session: Sequence[str] = ()
    rules: RulesLike = None
    placements: int = 4
    products: int = 12
    timeout_s: float | None = None
    budget_ms: int | None = None
    explain: bool = False
    metadata: Metadata = field(default_factory=lambda: NO_METADATA)
    shopper: str = ""


@dataclass(frozen=True)
class SearchRequest(_Request):
    """A search request, with the names and defaults of the arguments of `Client.search`."""

    query: str
    history: Sequence[str] = ()
    rules: RulesLike = None
    products: int = 12
    timeout_s: float | None = None
    budget_ms: int | None = None
    explain: bool = False
    metadata: Metadata = field(default_factory=lambda: NO_METADATA)
    shopper: str = ""
