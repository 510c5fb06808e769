"""What goes into a request and what comes out: plain frozen values, no protocol in sight."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


def _empty() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True)
class Rules:
    """What the merchandiser wants of this page; the defaults ask for nothing.

    Attributes:
        pin: product ids that go first, in this order.
        exclude_products: product ids never shown.
        exclude_brands: brands never shown.
        exclude_categories: category paths (or their beginnings) never shown.
        boost: "brand:x", "category:y" or "product:z" -> factor that raises the score.
        bury: the same keys -> factor that lowers the score.
        max_per_brand: most products of one brand in a placement.
        campaign: text that steers the themes ("back to school").
        required_themes: themes that must be on the page.
    """

    pin: tuple[str, ...] = ()
    exclude_products: tuple[str, ...] = ()
    exclude_brands: tuple[str, ...] = ()
    exclude_categories: tuple[str, ...] = ()
    boost: Mapping[str, float] = field(default_factory=_empty)
    bury: Mapping[str, float] = field(default_factory=_empty)
    max_per_brand: int | None = None
    campaign: str = ""
    required_themes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the rules as the contract's JSON, without what is not set."""
        exclude = {
            "products": list(self.exclude_products),
            "brands": list(self.exclude_brands),
            "categories": list(self.exclude_categories),
        }
        document = {
            "pin": list(self.pin),
            "exclude": {name: values for name, values in exclude.items() if values},
            "boost": dict(self.boost),
            "bury": dict(self.bury),
            "campaign": self.campaign,
            "required_themes": list(self.required_themes),
        }
        asked: dict[str, Any] = {name: value for name, value in document.items() if value}
        if self.max_per_brand is not None:
            asked["max_per_brand"] = self.max_per_brand
        return json.dumps(asked, ensure_ascii=False)


class Signals(Mapping[str, float]):
    """What one score is made of: signal -> value; read from the answer's row only when it is looked at."""

    __slots__ = ("_names", "_values")

    def __init__(self, names: Sequence[str], values: Sequence[float]):
        self._names = names
        self._values = values

    def __getitem__(self, name: str) -> float:
        try:
            return self._values[self._names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return repr(dict(self))


@dataclass(frozen=True)
class ScoredProduct:
    """One product of a ranking.

    Attributes:
        product_id: as the catalogue has it.
        score: what it is ranked by, finite, descending.
        signals: what the score is made of, finite, 0 where unknown; empty unless the request asked to explain.
    """

    product_id: str
    score: float
    signals: Mapping[str, float] = field(default_factory=_empty)


@dataclass(frozen=True)
class Placement:
    """One themed row of a page, best product first.

    Attributes:
        theme: its title.
        keywords: the known search keywords that it is made of; none of a classic placement.
        products: best first.
        source: where it comes from, as STATUS.placements says ("generated", "session", "classic:buy_again", ...); ""
            from a server that does not say.
    """

    theme: str
    keywords: tuple[str, ...]
    products: tuple[ScoredProduct, ...]
    source: str = ""


@dataclass(frozen=True)
class StageStatus:
    """How one stage came to its part of the answer.

    Attributes:
        source: "generated", "cached", "computed" or "fallback".
        ms: time the stage took, milliseconds.
        reason: why it, or a part of it, fell back; "" otherwise.
        aiqa: what the quality checks removed, count by reason.
    """

    source: str
    ms: float
    reason: str = ""
    aiqa: Mapping[str, int] = field(default_factory=_empty)


@dataclass(frozen=True)
class Status:
    """What the server says about its answer.

    Attributes:
        stages: stage name -> how it went, in the order of the request's way.
        signals: names of the signals a score is made of.
        versions: part (catalogue, index, each model) -> version.
        document: the whole STATUS document, for what has no field here.
    """

    stages: Mapping[str, StageStatus]
    signals: tuple[str, ...]
    versions: Mapping[str, str]
    document: Mapping[str, Any]

    @property
    def understood(self) -> bool:
        """Whether the models can know what the query says; of a page always."""
        return bool(self.document.get("understood", True))

    @property
    def degraded(self) -> tuple[str, ...]:
        """Names of the stages that fell back, wholly or in part."""
        return tuple(name for name, stage in self.stages.items() if stage.source == "fallback" or stage.reason)


@dataclass(frozen=True)
class Page:
    """The answer of `storefront`; `seconds` is the call's round trip as the client saw it."""

    placements: tuple[Placement, ...]
    status: Status
    seconds: float

    def to_html(self, titles: Mapping[str, str] | None = None) -> str:
        """Return the page as an HTML fragment; `titles` maps product ids to the titles to show."""
        from endcap_client.notebook import page_html

        return page_html(self, titles or {})

    def _repr_html_(self) -> str:
        return self.to_html()


@dataclass(frozen=True)
class SearchResult:
    """The answer of `search`, best product first; `seconds` is the round trip as the client saw it."""

    query: str
    products: tuple[ScoredProduct, ...]
    status: Status
    seconds: float

    def to_html(self, titles: Mapping[str, str] | None = None) -> str:
        """Return the ranking as an HTML fragment; `titles` maps product ids to the titles to show."""
        from endcap_client.notebook import search_html

        return search_html(self, titles or {})

    def _repr_html_(self) -> str:
        return self.to_html()
