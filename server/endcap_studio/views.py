"""What a person looks at, as the address of the page says it: shopper, made-up history, session, search."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self
from urllib.parse import urlencode

from endcap_client import Page
from endcap_client.rendering import Section, page_sections
from fastapi import Query
from starlette.datastructures import FormData

from endcap_studio.deployment import Ask
from endcap_studio.shop import Shop
from endcap_studio.shoppers import Shopper
from endcap_studio.why import Why

MOST_ADDED = 50
_Text = Annotated[str, Query(max_length=256)]


@dataclass(frozen=True)
class View:
    """One view of the page.

    Attributes:
        shopper: user_id of the events; "": a new shopper.
        add: Product ids that were clicked, oldest first; they follow the shopper's own history.
        session: Search texts of the session, oldest first.
        q: The search beside the page; "": none.
        placements: How many.
        products: How many in each.
    """

    shopper: str = ""
    add: tuple[str, ...] = ()
    session: tuple[str, ...] = ()
    q: str = ""
    placements: int = 4
    products: int = 6

    @classmethod
    def read(
        cls,
        shopper: _Text = "",
        add: Annotated[list[str], Query(max_length=MOST_ADDED)] = [],  # noqa: B006 - FastAPI copies it
        session: Annotated[list[str], Query(max_length=20)] = [],  # noqa: B006
        q: Annotated[str, Query(max_length=512)] = "",
        placements: Annotated[int, Query(ge=1, le=16)] = 4,
        products: Annotated[int, Query(ge=1, le=24)] = 6,
    ) -> Self:
        """The view of an address; what is out of range is refused."""
        texts = tuple(dict.fromkeys(each.strip()[:512] for each in session if each.strip()))
        added = tuple(dict.fromkeys(each[:256] for each in add if each))
        return cls(shopper, added, texts, q.strip(), placements, products)

    @classmethod
    def of_form(cls, form: FormData) -> Self:
        """The view of a form's hidden fields, as `fields` wrote them; what is out of range has its default."""
        texts = {name: [each for each in form.getlist(name) if isinstance(each, str)] for name in form}

        def number(name: str, most: int) -> int:
            text = texts.get(name, [""])[0]
            return int(text) if text.isdigit() and 1 <= int(text) <= most else getattr(View, name)

        return cls.read(
            texts.get("shopper", [""])[0][:256],
            texts.get("add", [])[:MOST_ADDED],
            texts.get("session", [])[:20],
            "",
            number("placements", 16),
            number("products", 24),
        )

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Names and values that give this view again; defaults are left out."""
        default = View()
        found = [("shopper", self.shopper)] if self.shopper else []
        found += [("add", each) for each in self.add] + [("session", each) for each in self.session]
        found += [("q", self.q)] if self.q else []
        for name in ("placements", "products"):
            if getattr(self, name) != getattr(default, name):
                found.append((name, str(getattr(self, name))))
        return found

    def but(self, *names: str) -> list[tuple[str, str]]:
        """`fields` without some."""
        return [(name, value) for name, value in self.fields if name not in names]

    def url(self, path: str = "/", **changes: Any) -> str:
        """Address of this view with changes."""
        query = urlencode(replace(self, **changes).fields)
        return f"{path}?{query}" if query else path

    def with_product(self, product: str) -> str:
        """Address with one more product in the history; the latest are kept."""
        return self.url(add=tuple(dict.fromkeys((*self.add, product)))[-MOST_ADDED:])

    def without_product(self, product: str) -> str:
        """Address without an added product."""
        return self.url(add=tuple(each for each in self.add if each != product))

    def with_search(self, text: str) -> str:
        """Address with one more search in the session."""
        return self.url(session=tuple(dict.fromkeys((*self.session, text)))[-20:])

    def without_search(self, text: str) -> str:
        """Address without a search of the session."""
        return self.url(session=tuple(each for each in self.session if each != text))


@dataclass(frozen=True)
class Person:
    """Whom a view is about.

    Attributes:
        shopper: Of the events; None: a new or made-up one.
        history: Product ids of the request.
        why: Sentences for its page.
    """

    shopper: Shopper | None
    history: tuple[str, ...]
    why: Why

    @classmethod
    def of(cls, view: View, shop: Shop) -> Self:
        """The person of a view; an unknown shopper is a new one."""
        known = shop.shoppers.get(view.shopper) if view.shopper and shop.shoppers is not None else None
        rows = list(known.history) if known is not None else []
        ids = [shop.store.product_ids[row] for row in rows]
        added = [row for row in (shop.row(each) for each in view.add) if row >= 0]
        why = Why(shop, [*rows, *added], known.bought if known else {}, known.today if known else 0)
        return cls(known, (*ids, *view.add), why)

    def ask(self, view: View, rules: Mapping[str, Any] | None = None) -> Ask:
        """The request for the page."""
        return Ask(self.history, view.session, view.placements, view.products, rules or {})


def drawn(page: Page, shop: Shop, why: Why) -> list[Section]:
    """A page for the templates."""
    ids = [product.product_id for placement in page.placements for product in placement.products]
    return page_sections(page, shop.products(ids), why)
