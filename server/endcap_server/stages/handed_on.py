"""What retrieval hands on to later stages, each as one JSON document in a BYTES [1] tensor.

One document instead of a tensor for each of its fields: the Python backend takes some 0.03 ms to move a tensor between
two processes, whatever its size, and a storefront has four such moves.
"""

from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from endcap_server.rules import Rules
from endcap_server.stages.base import bytes_tensor


class HandedOn(BaseModel):
    """A document of one stage for another; equal contents make equal tensors, which cache keys are made of."""

    model_config = ConfigDict(frozen=True)

    def tensor(self) -> np.ndarray:
        """BYTES [1]."""
        return bytes_tensor([self.model_dump_json(exclude_defaults=True)])

    @classmethod
    def read(cls, tensor: np.ndarray) -> Self:
        """Read what :meth:`tensor` made."""
        return cls.model_validate_json(tensor.reshape(-1)[0])


class PageRequest(HandedOn):
    """What a page is to be: the tensor PAGE, for rerank and fusion.

    Attributes:
        placements: P; 0 for a search.
        products: N of each placement.
        deadline_ns: When the page has to be ready (`time.monotonic_ns`); it also names the request among those in
            flight.
        rules: The merchandiser's.
        history: Rows of the products that the shopper is known to have taken, oldest first.
    """

    placements: int
    products: int
    deadline_ns: int
    rules: Rules = Rules()
    history: tuple[int, ...] = ()

    @property
    def is_search(self) -> bool:
        """Whether it has one list of products, and no themes."""
        return self.placements == 0


class ThemeRequest(HandedOn):
    """All that themes depend on: the tensor THEME_REQUEST, which is theme's cache key.

    Attributes:
        shopper: In LLM 1's words.
        placements: P.
        budget_ms: Milliseconds for the stage, in tiers.
        generation: (hash of the key, its number), see :class:`endcap_server.generations.Generations`.
        rules: Those that concern themes.
        categories: Category positions that the shopper buys from, best first.
    """

    shopper: str
    placements: int
    budget_ms: int
    generation: tuple[int, int]
    rules: dict[str, Any] = {}
    categories: tuple[int, ...] = ()


class KeywordsRequest(HandedOn):
    """What keywords depend on besides the themes: the tensor KEYWORDS_REQUEST; attributes as of `ThemeRequest`."""

    budget_ms: int
    generation: tuple[int, int]
