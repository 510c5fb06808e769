"""Values of requests and answers: plain frozen dataclasses, independent of the protocol."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


def _empty() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True)
class Rules:
    """Merchandising rules of a request; the defaults are no rules.

    Attributes:
        pin: product ids that go first, in this order.
        exclude_products: product ids that must not be shown.
        exclude_brands: brands that must not be shown.
        exclude_categories: category paths, or prefixes of them, that must not be shown.
        only_brands: brands of which alone products may be shown.
        only_categories: category paths, or prefixes of them, of which alone products may be shown.
        price: least and largest price (None: no limit); products without a known price are then not shown.
        least_in_stock: least share of a product's variants that must be in stock, 0 to 1.
        boost: "brand:x", "category:y", "product:z" or "column:c" -> factor that raises the score.
        bury: the same keys -> factor that lowers the score.
        max_per_brand: most products of one brand in a placement.
        campaign: text that steers the themes ("back to school").
        required_themes: titles that the page must show.
    """

    pin: tuple[str, ...] = ()
    exclude_products: tuple[str, ...] = ()
    exclude_brands: tuple[str, ...] = ()
    exclude_categories: tuple[str, ...] = ()
    only_brands: tuple[str, ...] = ()
    only_categories: tuple[str, ...] = ()
    price: tuple[float | None, float | None] = (None, None)
    least_in_stock: float = 0.0
    boost: Mapping[str, float] = field(default_factory=_empty)
    bury: Mapping[str, float] = field(default_factory=_empty)
    max_per_brand: int | None = None
    campaign: str = ""
    required_themes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the rules as the contract's JSON, without empty members."""
        exclude = {
            "products": list(self.exclude_products),
            "brands": list(self.exclude_brands),
            "categories": list(self.exclude_categories),
        }
        only = {"brands": list(self.only_brands), "categories": list(self.only_categories)}
        prices = zip(("min", "max"), self.price, strict=True)
        document = {
            "pin": list(self.pin),
            "only": {name: values for name, values in only.items() if values},
            "price": {name: limit for name, limit in prices if limit is not None},
            "least_in_stock": self.least_in_stock,
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
    """The components of a score: signal -> value; read lazily from the answer's row."""

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
        product_id: id in the catalogue.
        score: score of the ranking, finite, descending.
        signals: components of the score, finite, 0 if unknown; empty without `explain`.
    """

    product_id: str
    score: float
    signals: Mapping[str, float] = field(default_factory=_empty)


@dataclass(frozen=True)
class Product:
    """What a shop shows of a product; answers have ids only.

    Attributes:
        title: its title.
        brand: "" if unknown.
        category: path, "a > b > c"; "" if unknown.
        price: None if unknown.
        in_stock: share of its variants that is in stock, 0 to 1; None if unknown.
        picture: address of a picture, or a data: URI; "": a placeholder is drawn.
    """

    title: str = ""
    brand: str = ""
    category: str = ""
    price: float | None = None
    in_stock: float | None = None
    picture: str = ""


@dataclass(frozen=True)
class Placement:
    """One themed row of a page, best product first.

    Attributes:
        theme: its title.
        keywords: its known search keywords; none for a classic placement.
        products: best first.
        source: its source in STATUS.placements ("generated", "prepared", "classic:buy_again", ...); "" if unknown.
    """

    theme: str
    keywords: tuple[str, ...]
    products: tuple[ScoredProduct, ...]
    source: str = ""


@dataclass(frozen=True)
class StageStatus:
    """The status of one stage.

    Attributes:
        source: "generated", "prepared", "cached", "computed" or "fallback".
        ms: time the stage took, milliseconds.
        reason: why it, or a part of it, is a fallback; "" otherwise.
        aiqa: counts of what quality checks removed, by reason.
    """

    source: str
    ms: float
    reason: str = ""
    aiqa: Mapping[str, int] = field(default_factory=_empty)


@dataclass(frozen=True)
class Status:
    """The server's STATUS of an answer.

    Attributes:
        stages: stage name -> its status, in the order of a request.
        signals: names of the signals.
        versions: part (catalogue, index, each model) -> version.
        document: the whole STATUS document.
    """

    stages: Mapping[str, StageStatus]
    signals: tuple[str, ...]
    versions: Mapping[str, str]
    document: Mapping[str, Any]

    @property
    def understood(self) -> bool:
        """Whether the models understand the query; always true for a page."""
        return bool(self.document.get("understood", True))

    @property
    def degraded(self) -> tuple[str, ...]:
        """Names of the stages of which the whole answer, or a part, is a fallback."""
        return tuple(name for name, stage in self.stages.items() if stage.source == "fallback" or stage.reason)


@dataclass(frozen=True)
class Page:
    """The answer of `storefront`; `seconds` is the round trip of the call."""

    placements: tuple[Placement, ...]
    status: Status
    seconds: float

    def to_html(self, titles: Mapping[str, str | Product] | None = None) -> str:
        """Return the page as an HTML fragment; `titles` maps product ids to titles, or to what the shop shows."""
        from endcap_client.rendering import page_html

        return page_html(self, titles or {})

    def _repr_html_(self) -> str:
        return self.to_html()


@dataclass(frozen=True)
class SearchResult:
    """The answer of `search`, best product first; `seconds` is the round trip of the call."""

    query: str
    products: tuple[ScoredProduct, ...]
    status: Status
    seconds: float

    def to_html(self, titles: Mapping[str, str | Product] | None = None) -> str:
        """Return the ranking as an HTML fragment; `titles` maps product ids to titles, or to what the shop shows."""
        from endcap_client.rendering import search_html

        return search_html(self, titles or {})

    def _repr_html_(self) -> str:
        return self.to_html()
