"""The JSON documents that stages pass to later stages, each in a UINT8 tensor.

One document replaces a tensor per field: the Python backend takes about 0.03 ms to move a tensor between two processes,
whatever its size, and a storefront has four such transfers.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from endcap_server.declared.model import tensor
from endcap_server.declared.tensors import document_tensor
from endcap_server.shop.rules import MerchandisingRules

CANDIDATE_ROW = tensor("CANDIDATE_ROW", "INT32", -1)
CANDIDATE_SOURCE = tensor("CANDIDATE_SOURCE", "UINT8", -1)
CANDIDATE_SIMILARITY = tensor("CANDIDATE_SIMILARITY", "FP32", -1)
CANDIDATE_LEXICAL = tensor("CANDIDATE_LEXICAL", "FP32", -1)
PAGE = tensor("PAGE", "UINT8", -1)
THEME_REQUEST = tensor("THEME_REQUEST", "UINT8", -1)
QUERY_THEMES = tensor("QUERY_THEMES", "UINT8", -1)
QUERY_KEYWORDS = tensor("QUERY_KEYWORDS", "UINT8", -1)
THEMES = tensor("THEMES", "UINT8", -1)
KEYWORDS = tensor("KEYWORDS", "UINT8", -1)
ROW = tensor("ROW", "INT32", -1, -1)
MEASURED = tensor("MEASURED", "FP32", -1, -1, 4)
RERANK_STATUS = tensor("RERANK_STATUS", "UINT8", -1)

TICKETED = (PAGE.name, THEME_REQUEST.name, THEMES.name)
"""Tensors with the ticket of a request. In a search, THEMES has none."""
_TICKET = b',"ticket":'
"""Start of the part of a document that differs between equal requests. JSON escapes quotes, so no text contains it."""


class StageDocument(BaseModel):
    """A document of one stage for another. Equal contents have equal texts, which are used as cache keys."""

    model_config = ConfigDict(frozen=True)

    def json_text(self) -> str:
        """The document, as text."""
        return self.model_dump_json(exclude_defaults=True)

    def tensor(self) -> np.ndarray:
        """UINT8 [bytes of the document]."""
        return document_tensor(self.json_text())

    @classmethod
    def read(cls, tensor: np.ndarray) -> Self:
        """Read a tensor of :meth:`tensor`, or of :func:`status.carried`, which adds a stage's status."""
        return cls.read_text(tensor.tobytes())

    @classmethod
    def read_text(cls, text: str | bytes) -> Self:
        """Read a text of :meth:`json_text`."""
        return cls.model_validate_json(text)


class Ticket(StageDocument):
    """Identity and deadlines of a request on its way through the stages; times are of `time.monotonic_ns`.

    Attributes:
        table: Name of the table of requests in flight to which retrieval added it.
        deadline_ns: Deadline of the page; also the key of the request in that table.
        theme_ns: Deadline of theme.
        keywords_ns: Deadline of keywords.
        shopper: Hash of SHOPPER; "" without one.
        histories: With a shopper, digests of HISTORY; see `endcap_server.prepared.page.history_digests`.
        searches: With a shopper, digests of SESSION; see `search_digests` there.
    """

    table: str = Field(pattern="^[A-Za-z0-9_]+$")
    deadline_ns: int
    theme_ns: int = 0
    keywords_ns: int = 0
    shopper: str = ""
    histories: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()


class Ticketed(StageDocument):
    """A document with the ticket of its request as last member."""

    ticket: Ticket

    def json_text(self) -> str:
        """The document, as text."""
        return with_ticket(self.model_dump_json(exclude_defaults=True, exclude={"ticket"}), self.ticket.json_text())


def content_and_ticket(tensor: np.ndarray) -> tuple[bytes, str]:
    """Split a :class:`Ticketed` document into content and ticket, both as JSON text, without parsing.

    For other documents, the ticket is empty.
    """
    content, _, rest = tensor.tobytes().partition(_TICKET)
    return content, rest[: rest.find(b"}") + 1].decode(errors="replace")


def with_ticket(document: str, ticket: str) -> str:
    """A JSON document with the ticket of a request as its last member."""
    return f'{document[:-1]},"ticket":{ticket}}}'


def ticket_of(tensor: np.ndarray) -> Ticket:
    """The ticket in a :class:`Ticketed` document.

    Raises:
        ValueError: There is none.
    """
    return Ticket.model_validate_json(content_and_ticket(tensor)[1])


class PlacementSource(StrEnum):
    """Where a placement comes from; the values of STATUS.placements."""

    GENERATED = "generated"
    PREPARED = "prepared"
    REQUIRED = "required"
    SESSION = "session"
    """Answers a search of the session, as `search` would."""
    CATEGORY = "category"
    BUY_AGAIN = "classic:buy_again"
    TOGETHER = "classic:together"
    POPULAR = "classic:popular"


class AnsweredSearch(StageDocument):
    """The results of a search of the session.

    Attributes:
        text: The search.
        rows: Products, best first.
        similarity: Their cosine to the text.
        lexical: Match of their words with the text, 0..1.
    """

    text: str
    rows: tuple[int, ...]
    similarity: tuple[float, ...]
    lexical: tuple[float, ...]


class PageRequest(Ticketed):
    """The requested page: the tensor PAGE, for rerank and fusion.

    Attributes:
        placements: P; 0 for a search.
        products: N of each placement.
        rules: The merchandiser's.
        history: Rows of the known products of HISTORY, oldest first.
        named: Rows of the products that a search names by id, part number, EAN or model number.
        searches: The latest searches of the session, newest first, with their results.
    """

    placements: int
    products: int
    rules: MerchandisingRules = MerchandisingRules()
    history: tuple[int, ...] = ()
    named: tuple[int, ...] = ()
    searches: tuple[AnsweredSearch, ...] = ()

    @property
    def is_search(self) -> bool:
        """Whether it is the page of a search: one list of products, no themes."""
        return self.placements == 0


class ThemeRequest(Ticketed):
    """Everything that determines themes, and the ticket: the tensor THEME_REQUEST.

    Attributes:
        shopper: The shopper text for LLM 1.
        placements: P.
        rules: The part of the rules that concerns themes.
        categories: Category positions that the shopper buys from, best first.
        searches: The latest searches of the session, newest first; each gets a placement.
    """

    shopper: str
    placements: int
    rules: dict[str, Any] = {}
    categories: tuple[int, ...] = ()
    searches: tuple[str, ...] = ()


class Themes(StageDocument):
    """The themes of a page with the ticket: the tensor THEMES. For a search, the query without a ticket: QUERY_THEMES.

    Attributes:
        titles: Q titles; empty where no theme passed the checks.
        keywords: Rows of the keywords that were prepared for each theme, best first; empty for a theme without.
        ranked: Whether LLM 2 ordered those keywords.
        concepts: What each theme is about, in words of searches. For a theme that answers a search of the session, the
            first is that search. None for a search.
        sources: Where each theme comes from; none for a search.
        rules: The members `exclude` and `only` of the rules, for keywords.
    """

    titles: tuple[str, ...]
    concepts: tuple[tuple[str, ...], ...] = ()
    sources: tuple[PlacementSource, ...] = ()
    keywords: tuple[tuple[int, ...], ...] = ()
    ranked: tuple[bool, ...] = ()
    rules: dict[str, Any] = {}

    def about(self, index: int) -> tuple[str, ...]:
        """The concepts of a theme."""
        return self.concepts[index] if self.concepts else ()

    def source(self, index: int) -> PlacementSource:
        """Where the placement of a theme comes from."""
        return self.sources[index] if self.sources else PlacementSource.GENERATED


class KeywordRows(StageDocument):
    """The keywords of each theme: the tensor KEYWORDS, for rerank and fusion. For a search, QUERY_KEYWORDS.

    Attributes:
        rows: [Q, K] of the known keywords, -1 padded.
        ranked: [Q], whether LLM 2 ordered them; otherwise they are the nearest ones. Empty for a search.
    """

    rows: tuple[tuple[int, ...], ...]
    ranked: tuple[bool, ...] = ()

    @classmethod
    def of(cls, rows: np.ndarray, ranked: Sequence[bool] = ()) -> Self:
        """Those of int32 [Q, K]."""
        return cls(rows=rows.tolist(), ranked=tuple(ranked))

    def order(self, index: int) -> str:
        """The order of a theme's keywords for STATUS.placements: "ranked", "nearest", or "" without keywords."""
        if not self.ranked or not any(row >= 0 for row in self.rows[index]):
            return ""
        return "ranked" if self.ranked[index] else "nearest"

    @property
    def width(self) -> int:
        """K."""
        return max((len(row) for row in self.rows), default=0)

    @property
    def array(self) -> np.ndarray:
        """int32 [Q, K]."""
        return np.array(self.rows, np.int32).reshape(len(self.rows), -1)
