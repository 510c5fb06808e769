"""The protocol of `endcap evaluate storefront`: shoppers, shares of their later purchases, and baseline pages.

Pages may depend on events before the cut only.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from endcap_builders.catalogue import Catalogue
from endcap_builders.catalogue.cut import LEAST_HISTORY

PAGE_SIZE = 48
"""Products of a baseline page: as many as 4 placements of 12."""
LEAST_BOUGHT = 3
"""Least distinct products that a shopper must have bought after the cut."""
CATEGORIES = 4
"""Categories of the page `static`; each has an equal share of the page."""
BASELINES = ("popular", "own", "static", "half")


@dataclass(frozen=True)
class Shopper:
    """One shopper whose page is measured.

    Attributes:
        user_id: as in the catalogue.
        history: products of all events before the cut, oldest first.
        bought_before: products of the purchases among them, oldest first.
        bought_after: distinct products bought after the cut.
    """

    user_id: str
    history: tuple[str, ...]
    bought_before: tuple[str, ...]
    bought_after: frozenset[str]

    @property
    def new_after(self) -> frozenset[str]:
        """Products bought after the cut that are not in the history."""
        return self.bought_after - frozenset(self.history)


def shoppers_of(before: pl.DataFrame, after: pl.DataFrame) -> tuple[list[Shopper], list[Shopper]]:
    """The shoppers whose pages are measured, by id: those with a history, and new ones.

    Args:
        before: events before the cut; columns as in `Catalogue.events`.
        after: events after it.

    Returns:
        Shoppers with at least `LEAST_HISTORY` events before the cut and `LEAST_BOUGHT` distinct products bought after
        it, and shoppers with no event before and as many products after.
    """
    wanted = _products(after.filter(pl.col("type") == "purchase"))
    bought = _products(before.filter(pl.col("type") == "purchase"))
    seen = _products(before)
    shoppers = [
        Shopper(user, seen.get(user, ()), bought.get(user, ()), frozenset(products))
        for user, products in sorted(wanted.items())
        if len(set(products)) >= LEAST_BOUGHT
    ]
    known = [shopper for shopper in shoppers if len(shopper.history) >= LEAST_HISTORY]
    return known, [shopper for shopper in shoppers if not shopper.history]


def _products(events: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    ordered = events.sort("timestamp", maintain_order=True).group_by("user_id", maintain_order=True)
    return {user: tuple(products) for user, products in ordered.agg("product_id").iter_rows()}


class SimplePages:
    """Baseline pages without a model.

    Args:
        catalogue: with the events before the cut only.
        size: products of a page.
    """

    def __init__(self, catalogue: Catalogue, size: int = PAGE_SIZE):
        in_stock = catalogue.products.filter("in_stock")
        self._category: dict[str, str] = dict(in_stock.select("product_id", "category").iter_rows())
        events = catalogue.events
        bought = [] if events is None else events.filter(pl.col("type") == "purchase")["product_id"].to_list()
        self.popular: list[str] = [product for product, _ in Counter(bought).most_common() if product in self._category]
        """Products in stock that were bought, most bought first."""
        self._of_category: dict[str, list[str]] = {}
        for product in self.popular:
            self._of_category.setdefault(self._category[product], []).append(product)
        self._size = size

    def pages(self, shopper: Shopper) -> dict[str, list[str]]:
        """The pages of `BASELINES`, best product first.

        *popular*: the most bought products. *own*: those that the shopper has bought most often, the latest first among
        equals, filled up with popular products new to the shopper. *static*: 12 popular products of each of the 4
        categories that the shopper buys from most. *half*: 24 of *own*, then popular products new to the shopper.
        """
        counts = Counter(shopper.bought_before)
        latest = {product: place for place, product in enumerate(shopper.bought_before)}
        own = sorted(counts, key=lambda product: (-counts[product], -latest[product]))
        own = [product for product in own if product in self._category]
        seen, size = set(shopper.history), self._size
        new = [product for product in self.popular[: size + len(seen)] if product not in seen]
        categories = Counter(filter(None, map(self._category.get, shopper.bought_before)))
        share = size // CATEGORIES
        static = [
            product
            for category, _ in categories.most_common(CATEGORIES)
            for product in self._of_category.get(category, [])[:share]
        ]
        return {
            "popular": self.popular[:size],
            "own": (own[:size] + new)[:size],
            "static": static,
            "half": (own[: size // 2] + new)[:size],
        }


def baseline_pages(catalogue: Catalogue, shoppers: Sequence[Shopper], size: int = PAGE_SIZE) -> dict[str, list[Any]]:
    """The simple pages of every shopper: by name, a list of products for each shopper; see `SimplePages.pages`."""
    simple = SimplePages(catalogue, size)
    each = [simple.pages(shopper) for shopper in shoppers]
    return {name: [pages[name] for pages in each] for name in BASELINES}


def shares(pages: Iterable[Iterable[str]], shoppers: Sequence[Shopper]) -> dict[str, np.ndarray]:
    """Shares of the products bought after the cut that a page shows.

    Args:
        pages: products of each shopper's page, in any order.
        shoppers: of the pages.

    Returns:
        `all`, and `new`: of those new to the shopper, NaN where there is none; float64 [shoppers] each.

    Raises:
        ValueError: There are not as many pages as shoppers.
    """
    found: dict[str, list[float]] = {"all": [], "new": []}
    for page, shopper in zip(map(frozenset, pages), shoppers, strict=True):
        for name, wanted in (("all", shopper.bought_after), ("new", shopper.new_after)):
            found[name].append(len(page & wanted) / len(wanted) if wanted else float("nan"))
    return {name: np.array(values, np.float64) for name, values in found.items()}


def coverage(pages: Sequence[Sequence[str]], products: int) -> float:
    """Share of the catalogue's products that occur on any page."""
    return len({product for page in pages for product in page}) / products


def gini(pages: Sequence[Sequence[str]], products: int) -> float:
    """Gini coefficient of exposures over the catalogue's products: near 1 if few products have most of them.

    0 if all products are shown equally often, and if none is.
    """
    counts = np.fromiter(Counter(product for page in pages for product in page).values(), np.float64)
    if not counts.size:
        return 0.0
    exposed = np.concatenate([np.zeros(products - len(counts)), np.sort(counts)])
    places = np.arange(1, products + 1)
    return float((2 * places - products - 1) @ exposed / (products * exposed.sum()))


def title_figures(titles: Sequence[Sequence[str]]) -> Mapping[str, Any]:
    """Figures about repeated titles.

    Args:
        titles: of each page.

    Returns:
        shown; distinct; distinct_share of those shown; most_frequent; most_frequent_share: of the pages, with it.
    """
    shown = sum(map(len, titles))
    on_pages = Counter(title for page in titles for title in dict.fromkeys(page))
    title, count = on_pages.most_common(1)[0] if on_pages else ("", 0)
    return {
        "shown": shown,
        "distinct": len(on_pages),
        "distinct_share": round(len(on_pages) / max(shown, 1), 4),
        "most_frequent": title,
        "most_frequent_share": round(count / max(len(titles), 1), 4),
    }
