"""One request as a value: what batches are made of."""

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
    """What `search` takes besides the query; see `Client.storefront` for what each means."""

    history: Sequence[str]
    rules: RulesLike
    products: int
    timeout_s: float | None
    budget_ms: int | None
    explain: bool
    metadata: Metadata
    shopper: str


class StorefrontArguments(TypedDict, total=False):
    """What `storefront` takes besides the history; see `Client.storefront` for what each means."""

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
        """Return the request that a JSON object describes; its keys are the names of the fields.

        Raises:
            InvalidArgument: a key is not a field, or a needed one is missing.
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
    """What a page is asked with; the same names and defaults as the arguments of `Client.storefront`."""

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
    """What a search is asked with; the same names and defaults as the arguments of `Client.search`."""

    query: str
    history: Sequence[str] = ()
    rules: RulesLike = None
    products: int = 12
    timeout_s: float | None = None
    budget_ms: int | None = None
    explain: bool = False
    metadata: Metadata = field(default_factory=lambda: NO_METADATA)
    shopper: str = ""
