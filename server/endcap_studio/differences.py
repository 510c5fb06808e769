"""What differs between two pages of one shopper, before and after a change."""

from collections.abc import Mapping
from dataclasses import dataclass

from endcap_client import Page

Marks = Mapping[tuple[int, str], tuple[str, str]]
"""Place of a placement, from 0, and product id -> kind (new, moved, gone) and text of a mark."""
_SHORT = 24
_ORDINALS = {1: "1st", 2: "2nd", 3: "3rd"}


@dataclass(frozen=True)
class Difference:
    """Two pages.

    Attributes:
        before: Marks of the first page: what goes.
        after: Marks of the second page: what is new or has moved.
        changed: Whether anything a shopper sees differs.
        products: Products of the second page.
        new_products: Those of them that are not on the first.
        moved_products: Those that stand elsewhere.
        new_titles: Titles that only the second page has.
        gone_titles: Titles that only the first page has.
    """

    before: Marks
    after: Marks
    changed: bool
    products: int
    new_products: int
    moved_products: int
    new_titles: tuple[str, ...]
    gone_titles: tuple[str, ...]


def difference(before: Page, after: Page) -> Difference:
    """Compare two pages."""
    first, second = _places(before), _places(after)
    gone = {(place, product): ("gone", "goes") for product, (place, _, _) in first.items() if product not in second}
    found: dict[tuple[int, str], tuple[str, str]] = {}
    for product, (place, rank, key) in second.items():
        known = first.get(product)
        if known is None:
            found[place, product] = ("new", "new")
        elif known[1:] != (rank, key):
            before_title = before.placements[known[0]].theme
            where = "" if known[2] == key else f" in {shortened(before_title, _SHORT)}"
            found[place, product] = ("moved", f"was {_ordinal(known[1])}{where}")
    titles = [{placement.theme: None for placement in page.placements} for page in (before, after)]
    kinds = [kind for kind, _ in found.values()]
    return Difference(
        gone,
        found,
        bool(gone or found or list(titles[0]) != list(titles[1])),
        len(second),
        kinds.count("new"),
        kinds.count("moved"),
        tuple(title for title in titles[1] if title not in titles[0]),
        tuple(title for title in titles[0] if title not in titles[1]),
    )


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _places(page: Page) -> dict[str, tuple[int, int, str]]:
    """Product -> place of its placement, rank in it from 1, and what names the placement.

    Titles of classic placements follow their products, so their source names them.
    """
    return {
        product.product_id: (place, rank, placement.source if "classic" in placement.source else placement.theme)
        for place, placement in enumerate(page.placements)
        for rank, product in enumerate(placement.products, 1)
    }


def _ordinal(rank: int) -> str:
    return _ORDINALS.get(rank, f"{rank}th")
