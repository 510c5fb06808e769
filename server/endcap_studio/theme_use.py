"""The titles that pages have shown lately, from the record of exposures, and what checks have refused."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import polars as pl
from endcap_server.exposures.segments import exposure_readers
from endcap_server.serving.metrics import AIQA
from endcap_server.stages.theme_parameters import ThemeCheck

MOST_PAGES = 20_000
"""Latest pages that are counted."""
CHECKS = {
    ThemeCheck.MALFORMED_ANSWER: "the answer was no list of themes",
    ThemeCheck.CUT_ANSWER: "the answer was cut, because time or length ran out",
    ThemeCheck.TITLE_LENGTH: "the title is too short or too long",
    ThemeCheck.TITLE_SCRIPT: "letters of a script that the catalogue does not use",
    ThemeCheck.TITLE_WORD: "a word that neither the catalogue nor the learned titles have",
    ThemeCheck.TITLE_BRAND: "a brand that the shopper does not buy",
    ThemeCheck.TITLE_REPEATS: "the title lists a thing twice",
    ThemeCheck.TITLE_BROKEN: "joining words follow each other as in no learned title",
    ThemeCheck.TITLE_SEARCH: "speaks of a search that this shopper has not made",
    ThemeCheck.NO_CONCEPTS: "nothing was left to search products with",
    ThemeCheck.CONCEPT_POLICY: "a search text against the text policy",
    ThemeCheck.NEAR_DUPLICATE: "nearly repeats another title of the page",
    ThemeCheck.CONCEPT_EXCLUDED: "a search text names what a rule excludes",
    ThemeCheck.THEME_EXCLUDED: "is about what a rule excludes",
    ThemeCheck.TITLE_EXCLUDED: "names what a rule excludes",
    ThemeCheck.TITLE_BANNED: "the title is banned",
    ThemeCheck.REQUIRED_THEME_BANNED: "a required theme is banned",
}
"""What each check of themes means; the text policy's sections are named by themselves."""
_SERIES = re.compile(rf"^{AIQA.name}\{{(?P<labels>[^}}]*)\}} (?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class TitleUse:
    """A title that pages have shown.

    Attributes:
        title: The title.
        pages: Pages with it.
        share: Of all pages.
        last: When it was shown last, UTC.
        sources: Sources of its placements.
    """

    title: str
    pages: int
    share: float
    last: datetime
    sources: tuple[str, ...]


@dataclass(frozen=True)
class ShownPage:
    """A page that has shown a title: when, by which generation, and all it showed."""

    time: datetime
    generation: int
    position: int
    titles: tuple[str, ...]
    products: tuple[str, ...]


@dataclass(frozen=True)
class Uses:
    """Titles of the latest pages, the most frequent first."""

    pages: int
    titles: tuple[TitleUse, ...]


def read_uses(folder: Path, source: str, text: str, count: int) -> Uses:
    """The titles of the latest pages.

    Args:
        folder: Of the exposures.
        source: Of the placements; "": any.
        text: Part of the titles, in any case.
        count: Most titles.
    """
    parts, pages = [], 0
    for frame in _latest(folder):
        pages += frame.height
        parts.append(_placements(frame).select("page_id", "time", "title", "source"))
    if not parts:
        return Uses(0, ())
    shown = pl.concat(parts).filter(pl.col("title") != "")
    if source:
        shown = shown.filter(pl.col("source") == source)
    if text:
        shown = shown.filter(pl.col("title").str.to_lowercase().str.contains(text.lower(), literal=True))
    found = (
        shown.group_by("title")
        .agg(pl.col("page_id").n_unique().alias("pages"), pl.col("time").max().alias("last"), pl.col("source").unique())
        .sort("pages", "title", descending=[True, False])
        .head(count)
    )
    return Uses(
        pages,
        tuple(
            TitleUse(title, number, number / pages, last, tuple(sorted(sources)))
            for title, number, last, sources in found.select("title", "pages", "last", "source").iter_rows()
        ),
    )


def read_pages(folder: Path, title: str, count: int) -> list[ShownPage]:
    """The latest pages that have shown a title."""
    found: list[ShownPage] = []
    for frame in _latest(folder):
        wanted = frame.filter(pl.col("placements").list.eval(pl.element().struct.field("title") == title).list.any())
        for row in wanted.sort("time", descending=True).head(count - len(found)).iter_rows(named=True):
            titles = tuple(each["title"] for each in row["placements"])
            place = titles.index(title)
            products = tuple(row["placements"][place]["products"])
            found.append(ShownPage(row["time"], row["generation"], place + 1, titles, products))
        if len(found) >= count:
            break
    return found


def refusals(metrics: str) -> dict[str, int]:
    """Check of themes -> how often it refused something since the server started; empty if its metrics are away.

    Args:
        metrics: HOST:PORT of the server's metrics.
    """
    if not metrics:
        return {}
    try:
        # The server is asked directly, whatever proxy the environment names.
        with build_opener(ProxyHandler({})).open(f"http://{metrics}/metrics", timeout=_TIMEOUT_S) as answer:
            text = answer.read().decode()
    except (URLError, OSError, ValueError):
        return {}
    found: dict[str, int] = {}
    for each in _SERIES.finditer(text):
        labels = dict(_LABEL.findall(each["labels"]))
        if labels.get("stage") == "theme" and float(each["value"]) > 0:
            found[labels["reason"]] = found.get(labels["reason"], 0) + round(float(each["value"]))
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def meaning(check: str) -> str:
    """What a check of themes finds, in words."""
    known = {str(name): text for name, text in CHECKS.items()}
    if check.startswith("policy_"):
        return f"against the text policy ({check.removeprefix('policy_')})"
    return known.get(check, check.replace("_", " "))


def _latest(folder: Path) -> Iterator[pl.DataFrame]:
    """Storefront pages, the latest segments first."""
    try:
        readers = exposure_readers(folder)
    except FileNotFoundError:
        return
    pages = 0
    for read in reversed(readers):
        frame = pl.from_arrow(read())
        assert isinstance(frame, pl.DataFrame)
        storefronts = frame.filter(pl.col("ensemble") == "storefront")
        if storefronts.height:
            yield storefronts
        pages += storefronts.height
        if pages >= MOST_PAGES:
            return


def _placements(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("placements").list.len() > 0).explode("placements").unnest("placements")
