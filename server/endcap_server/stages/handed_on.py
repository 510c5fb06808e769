"""What stages hand on to later ones besides arrays: JSON documents, each in a UINT8 tensor.

One document instead of a tensor for each of its fields: the Python backend takes some 0.03 ms to move a tensor between
two processes, whatever its size, and a storefront has four such moves.
"""

from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from endcap_server.declared.model import tensor
from endcap_server.declared.tensors import document_tensor
from endcap_server.shop.rules import Rules

CANDIDATE_ROW = tensor("CANDIDATE_ROW", "INT32", -1)
CANDIDATE_SIMILARITY = tensor("CANDIDATE_SIMILARITY", "FP32", -1)
CANDIDATE_LEXICAL = tensor("CANDIDATE_LEXICAL", "FP32", -1)
PAGE = tensor("PAGE", "UINT8", -1)
THEME_REQUEST = tensor("THEME_REQUEST", "UINT8", -1)
QUERY_THEMES = tensor("QUERY_THEMES", "UINT8", -1)
QUERY_KEYWORDS = tensor("QUERY_KEYWORDS", "UINT8", -1)
THEMES = tensor("THEMES", "UINT8", -1)
THEME_STATUS = tensor("THEME_STATUS", "UINT8", -1)
KEYWORDS = tensor("KEYWORDS", "UINT8", -1)
ROW = tensor("ROW", "INT32", -1, -1)
MEASURED = tensor("MEASURED", "FP32", -1, -1, 4)
RERANK_STATUS = tensor("RERANK_STATUS", "UINT8", -1)


class HandedOn(BaseModel):
    """A document of one stage for another; equal contents make equal tensors, which cache keys are made of."""

    model_config = ConfigDict(frozen=True)

    def json_text(self) -> str:
        """The document, as text."""
        return self.model_dump_json(exclude_defaults=True)

    def tensor(self) -> np.ndarray:
        """UINT8 [bytes of the document]."""
        return document_tensor(self.json_text())

    @classmethod
    def read(cls, tensor: np.ndarray) -> Self:
        """Read what :meth:`tensor` made, or :func:`status.carried` with a stage's status in it."""
        return cls.model_validate_json(tensor.tobytes())


class PageRequest(HandedOn):
    """What a page is to be: the tensor PAGE, for rerank and fusion.

    Attributes:
        placements: P; 0 for a search.
        products: N of each placement.
        deadline_ns: When the page has to be ready (`time.monotonic_ns`); it also names the request among those in
            flight.
        rules: The merchandiser's.
        history: Rows of the products that the shopper is known to have taken, oldest first.
        named: Rows of the products that a search names by id, part number, EAN or model number.
    """

    placements: int
    products: int
    deadline_ns: int
    rules: Rules = Rules()
    history: tuple[int, ...] = ()
    named: tuple[int, ...] = ()

    @property
    def is_search(self) -> bool:
        """Whether it has one list of products, and no themes."""
        return self.placements == 0


class ThemeRequest(HandedOn):
    """All that themes and their keywords depend on: the tensor THEME_REQUEST, which is theme's cache key.

    Attributes:
        shopper: In LLM 1's words.
        placements: P.
        budget_ms: Milliseconds for the stage, in tiers.
        keywords_ms: Those for keywords.
        generation: (hash of the key, its number), see :class:`endcap_server.stages.generations.Generations`.
        rules: Those that concern themes.
        categories: Category positions that the shopper buys from, best first.
    """

    shopper: str
    placements: int
    budget_ms: int
    keywords_ms: int
    generation: tuple[int, int]
    rules: dict[str, Any] = {}
    categories: tuple[int, ...] = ()


class Themes(HandedOn):
    """The themes of a page: the tensor THEMES, keywords' cache key; of a search its query, as QUERY_THEMES.

    Attributes:
        titles: Q of them; those that the checks left nothing for are empty.
        concepts: What each is about, in words a shop is searched with; a search has none.
        exclude: What keywords may not be about, as RULES has it.
        keywords_ms: As of `ThemeRequest`.
        generation: As of `ThemeRequest`.
    """

    titles: tuple[str, ...]
    concepts: tuple[tuple[str, ...], ...] = ()
    exclude: dict[str, Any] = {}
    keywords_ms: int = 0
    generation: tuple[int, int] = (0, 0)


class KeywordRows(HandedOn):
    """The keywords of each theme: the tensor KEYWORDS, for rerank and fusion; of a search's query, QUERY_KEYWORDS.

    Attributes:
        rows: [Q, K] of the known keywords, -1 padded.
    """

    rows: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, rows: np.ndarray) -> Self:
        """Those of int32 [Q, K]."""
        return cls(rows=rows.tolist())

    @property
    def array(self) -> np.ndarray:
        """int32 [Q, K]."""
        return np.array(self.rows, np.int32).reshape(len(self.rows), -1)
