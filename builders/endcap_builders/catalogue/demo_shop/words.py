"""Loads the words of the demo shop from its TOML files into tables that the generators index by number."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

DEPARTMENT_FILES = ("grocery", "home", "family", "pets", "beauty", "outdoor", "garden", "office")


@dataclass(frozen=True)
class Leaf:
    """A leaf category: its path, sellers, buyers and descriptions.

    Attributes:
        words: searches for the whole leaf.
        parts: searches for some of its lines, with their numbers.
        countable: whether its nouns have plurals.
        seasonal: whether it sells only for occasions.
    """

    path: str
    code: str
    brands: tuple[int, ...]
    words: tuple[str, ...]
    parts: Mapping[str, tuple[int, ...]]
    who: tuple[str, ...]
    says: tuple[str, ...]
    countable: bool
    seasonal: bool


@dataclass(frozen=True)
class Line:
    """A product line of a leaf: a noun and the attributes its products combine (empty tuple: has none of the kind)."""

    leaf: int
    noun: str
    queries: tuple[str, ...]
    extras: tuple[str, ...]
    varieties: tuple[str, ...]
    colors: tuple[str, ...]
    sizes: tuple[str, ...]
    price: tuple[float, float]
    missions: tuple[int, ...]
    variety_last: bool


@dataclass(frozen=True)
class Mission:
    """A reason to shop; ``season`` holds a factor for each month."""

    name: str
    who: tuple[str, ...]
    weight: float
    season: tuple[float, ...]
    big: bool
    queries: tuple[str, ...]
    says: tuple[str, ...]


@dataclass(frozen=True)
class ShopWords:
    """All of the demo shop's words."""

    brands: tuple[str, ...]
    tiers: tuple[int, ...]
    leaves: tuple[Leaf, ...]
    lines: tuple[Line, ...]
    missions: tuple[Mission, ...]
    households: Mapping[str, Any]
    diets: Mapping[str, Any]
    promises: Mapping[str, tuple[str, ...]]
    traits: tuple[str, ...]


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))


def _season(mission: Mapping[str, Any]) -> tuple[float, ...]:
    if "peak" not in mission:
        return (1.0,) * 12
    high, low = (4.0, 0.03) if mission.get("only") else (2.2, 0.7)
    return tuple(high if month in mission["peak"] else low for month in range(1, 13))


@cache
def load_words() -> ShopWords:
    """The words of the demo shop."""
    tables = _read("missions")["mission"]
    number = {table["id"]: index for index, table in enumerate(tables)}
    missions = tuple(
        Mission(
            name=table["name"],
            who=tuple(table["who"]),
            weight=float(table["weight"]),
            season=_season(table),
            big=table.get("big", False),
            queries=tuple(table["queries"]),
            says=tuple(table["says"]),
        )
        for table in tables
    )
    shoppers = _read("shoppers")
    brands: dict[str, int] = {}
    leaves: list[Leaf] = []
    lines: list[Line] = []
    for file in DEPARTMENT_FILES:
        department = _read(file)
        brands |= department["brands"]
        order = list(brands)
        for table in department["leaf"]:
            countable = table.get("countable", department.get("countable", False))
            nouns = {line["n"]: len(lines) + index for index, line in enumerate(table["lines"])}
            lines += [_line(line, len(leaves), number) for line in table["lines"]]
            leaves.append(
                Leaf(
                    path=f"{department['department']} > {table['path']}",
                    code=department["code"],
                    brands=tuple(order.index(brand) for brand in table["brands"]),
                    words=tuple(table["words"]),
                    parts={text: tuple(nouns[n] for n in part) for text, part in table.get("parts", {}).items()},
                    who=tuple(table.get("who", ())),
                    says=tuple(table["says"]),
                    countable=countable,
                    seasonal=table.get("seasonal", False),
                )
            )
    traits = sorted({trait for household in shoppers["household"].values() for trait in household["traits"]})
    return ShopWords(
        brands=tuple(brands),
        tiers=tuple(brands.values()),
        leaves=tuple(leaves),
        lines=tuple(lines),
        missions=missions,
        households=shoppers["household"],
        diets=shoppers["diet"],
        promises={word: tuple(says) for word, says in shoppers["promises"].items()},
        traits=tuple(traits),
    )


def _line(table: Mapping[str, Any], leaf: int, number: Mapping[str, int]) -> Line:
    low, high = table["p"]
    return Line(
        leaf=leaf,
        noun=table["n"],
        queries=tuple(table.get("q", (table["n"].lower(),))),
        extras=tuple(table.get("x", ())),
        varieties=tuple(table.get("v", ())),
        colors=tuple(table.get("c", ())),
        sizes=tuple(table.get("s", ())),
        price=(float(low), float(high)),
        missions=tuple(number[mission] for mission in table["m"]),
        variety_last=table.get("flip", False),
    )
