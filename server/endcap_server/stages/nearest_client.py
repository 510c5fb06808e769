"""Client of the engine `nearest` for stages."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from endcap_server.declared.errors import EngineError
from endcap_server.declared.tensors import Tensors, bytes_tensor
from endcap_server.stages.base import Engines
from endcap_server.stages.status import StatusPart

_ENGINE = "nearest"
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Hits:
    """Results of a search for T texts or vectors.

    Attributes:
        rows: int32 [T, K], nearest first, -1 padded.
        similarity: float32 [T, K], cosine, NaN padded.
        vectors: float32 [T, D], the query vectors, of unit length.
    """

    rows: np.ndarray
    similarity: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class Words:
    """Results of a lexical search for one text.

    Attributes:
        rows: int32 [K], best first; K is at most the requested number.
        score: float32 [K], 0..1, relative to the best one.
        exact: bool [K]; the text names this product by its id, part number, EAN or model number. Those come first.
    """

    rows: np.ndarray
    score: np.ndarray
    exact: np.ndarray

    @classmethod
    def none(cls) -> "Words":
        """The result of a search that found nothing."""
        return cls(np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.bool_))

    @classmethod
    def of(cls, rows: np.ndarray, score: np.ndarray, exact: np.ndarray) -> "Words":
        """Convert rows (-1 padded) and scores of any scale from the lexical index."""
        found = rows >= 0
        best = max(float(score[found].max(initial=0.0)), 1e-9)
        return cls(rows[found].astype(np.int32), (score[found] / best).astype(np.float32), exact[found])


class NearestClient:
    """Calls the engine. Every method raises EngineTimeout or EngineError as `Engines.call` does.

    Args:
        engines: Calls the engines.
        products: Number of products in the store.
        keywords: Number of known keywords in the store.
    """

    def __init__(self, engines: Engines, products: int, keywords: int):
        self._engines = engines
        self._sizes = {"products": products, "keywords": keywords}

    async def encode(self, texts: Sequence[str], deadline_ns: int) -> np.ndarray:
        """Vectors of texts: float32 [T, D] of unit length."""
        answer = await self._engines.call(_ENGINE, {"TEXT": bytes_tensor(texts)}, deadline_ns, ("VECTOR",))
        return answer["VECTOR"].astype(np.float32)

    async def products(
        self, what: Sequence[str] | np.ndarray, count: int, deadline_ns: int, allowed: np.ndarray | None = None
    ) -> Hits:
        """The nearest products.

        Args:
            what: Texts, or vectors float32 [T, D].
            count: Products to find for each, or as many as there are.
            deadline_ns: Time after which the answer is useless.
            allowed: uint8 [ceil(n / 8)], a bit for each product, the lowest first; None: every product.
        """
        return await self._search("products", what, count, deadline_ns, {} if allowed is None else {"ALLOWED": allowed})

    async def words(self, text: str, count: int, deadline_ns: int, allowed: np.ndarray | None = None) -> Words:
        """The products whose words match a text; arguments as in :meth:`products`."""
        if not (count := min(count, self._sizes["products"])):
            return Words.none()
        inputs = {"TEXT": bytes_tensor([text]), "INDEX": bytes_tensor(["words"]), "K": np.array([count], np.int32)}
        if allowed is not None:
            inputs["ALLOWED"] = allowed
        answer = await self._engines.call(_ENGINE, inputs, deadline_ns, ("ROW", "SIMILARITY", "EXACT"))
        return Words.of(answer["ROW"][0], answer["SIMILARITY"][0], answer["EXACT"][0])

    async def keywords(self, what: Sequence[str] | np.ndarray, count: int, deadline_ns: int) -> Hits:
        """The nearest known keywords; arguments as in :meth:`products`."""
        return await self._search("keywords", what, count, deadline_ns, {})

    async def _search(
        self,
        index: Literal["products", "keywords"],
        what: Sequence[str] | np.ndarray,
        count: int,
        deadline_ns: int,
        more: Tensors,
    ) -> Hits:
        count = min(count, self._sizes[index])
        if not count or not len(what):
            nothing = np.empty((len(what), 0), np.float32)
            return Hits(nothing.astype(np.int32), nothing, nothing)
        asked = {"VECTOR": what} if isinstance(what, np.ndarray) else {"TEXT": bytes_tensor(what)}
        inputs = {**asked, "INDEX": bytes_tensor([index]), "K": np.array([count], np.int32), **more}
        outputs = ("ROW", "SIMILARITY", "VECTOR")
        answer = await self._engines.call(_ENGINE, inputs, deadline_ns, outputs)
        return Hits(answer["ROW"], answer["SIMILARITY"], answer["VECTOR"].astype(np.float32))


async def found_or_none(call: Awaitable[_Answer], status: StatusPart, *, whole: bool = True) -> _Answer | None:
    """The answer of a call of the nearest engine; after a failure, None and a note in the status."""
    try:
        return await call
    except EngineError as error:
        status.fall_back_on(error, whole=whole)
        return None
