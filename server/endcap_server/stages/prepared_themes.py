"""The prepared themes of a request's shopper, as long as they fit the request and the shopper has not moved on."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from endcap_server.exposures.record import ShopperKeys
from endcap_server.prepared.page import PreparedPage
from endcap_server.prepared.reading import PreparedPages
from endcap_server.prepared.stores import StoreError, prepared_address
from endcap_server.shop import prompts
from endcap_server.shop.prompts import ThemeDraft
from endcap_server.shop.store import ItemStore
from endcap_server.stages.documents import ThemeRequest
from endcap_server.stages.theme_parameters import ThemeParameters


class PreparedResult(StrEnum):
    """What came of the look for a shopper's prepared page."""

    TAKEN = "taken"
    NONE = "none"
    """The store has none for the shopper."""
    MOVED_ON = "moved_on"
    """More purchases and searches are new than `prepared_drift` allows."""
    EXPIRED = "expired"
    OTHER_REQUEST = "other_request"
    """It is for fewer placements, or for another campaign."""
    KEYWORDS_GONE = "keywords_gone"
    """The build does not have all of its keywords."""
    REFUSED = "refused"
    """Too few of its themes passed the checks."""
    UNAVAILABLE = "unavailable"
    """The store cannot be read, or did not answer in time."""


@dataclass(frozen=True)
class Prepared:
    """A prepared page that a request may have.

    Attributes:
        drafts: Its themes, the best first.
        keywords: Title -> rows of the known keywords, best first.
        ranked: Titles whose keywords LLM 2 ordered.
        age_s: Seconds since it was made.
    """

    drafts: Sequence[ThemeDraft]
    keywords: Mapping[str, tuple[int, ...]]
    ranked: frozenset[str]
    age_s: float

    def rows(self, theme: ThemeDraft) -> tuple[int, ...]:
        """The prepared keywords of a theme; none if it is not one of these."""
        return self.keywords.get(theme.title, ())


class PreparedThemes:
    """Finds the prepared themes of shoppers.

    Args:
        build: The build.
        store: Its item store.
        settings: Parameters of `theme`.
    """

    def __init__(self, build: Path, store: ItemStore, settings: ThemeParameters) -> None:
        self._keywords, self._settings = store.keywords, settings
        keys_of = ShopperKeys.configured().identity
        address = prepared_address(build, settings.prepared_store)
        self._off = settings.prepared_drift < 0 or not keys_of
        self._pages = PreparedPages(address, keys_of, settings.prepared_timeout_ms / 1e3)
        if not self._off:
            self._pages.open_soon()

    def asked(self, ticket: str) -> bool:
        """Whether a request's shopper may have a prepared page; the ticket is its JSON text, which is not parsed."""
        return not self._off and '"shopper"' in ticket and self._pages.exist

    async def find(self, request: ThemeRequest) -> Prepared | PreparedResult:
        """The prepared themes for a request, or why there are none."""
        try:
            page = await self._pages.find(request.ticket.shopper)
        except StoreError:
            return PreparedResult.UNAVAILABLE
        if page is None:
            return PreparedResult.NONE
        return self._refused(page, request) or self._taken(page)

    def close(self) -> None:
        """Close the store."""
        self._pages.close()

    def _refused(self, page: PreparedPage, request: ThemeRequest) -> PreparedResult | None:
        settings, ticket = self._settings, request.ticket
        moved = page.moved_on(ticket.histories, ticket.searches)
        if moved is None or moved > settings.prepared_drift:
            return PreparedResult.MOVED_ON
        if settings.prepared_ttl_s and time.time() - page.made_s > settings.prepared_ttl_s:
            return PreparedResult.EXPIRED
        campaign, _ = prompts.quoted_texts(request.shopper)
        if campaign != page.campaign or request.placements > page.placements:
            return PreparedResult.OTHER_REQUEST
        return None

    def _taken(self, page: PreparedPage) -> Prepared | PreparedResult:
        texts = [text for theme in page.themes for text in theme.keywords]
        rows = dict(zip(texts, self._keywords.find(texts).tolist(), strict=True))
        if not page.themes or min(rows.values(), default=0) < 0:
            return PreparedResult.KEYWORDS_GONE
        return Prepared(
            drafts=[ThemeDraft(theme.title, theme.concepts) for theme in page.themes],
            keywords={theme.title: tuple(rows[text] for text in theme.keywords) for theme in page.themes},
            ranked=frozenset(theme.title for theme in page.themes if theme.ranked),
            age_s=round(max(0.0, time.time() - page.made_s), 1),
        )
