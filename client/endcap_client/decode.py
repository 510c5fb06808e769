"""Converts Triton's answer to the client's values, in one pass over the bytes; errors name the broken contract."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from endcap_client.errors import ProtocolError
from endcap_client.types import Page, Placement, ScoredProduct, SearchResult, Signals, StageStatus, Status

_TYPES = {"FP32": "float32", "BYTES": "object"}
_NONE = Signals((), ())


class Answer:
    """The tensors of a `ModelInferResponse`, by name."""

    def __init__(self, response: Any):
        names = [output.name for output in response.outputs]
        self._outputs = dict(zip(names, response.outputs, strict=True))
        # Not strict: missing bytes are reported when the tensor is read.
        self._raw = dict(zip(names, response.raw_output_contents, strict=False))

    def texts(self, name: str, rank: int, shape: tuple[int, ...] | None = None) -> tuple[list[str], tuple[int, ...]]:
        """Return a BYTES tensor's texts, flat, and its shape.

        Args:
            name: the tensor.
            rank: number of dimensions that it must have.
            shape: shape that it must have; None: any.
        """
        raw, shape = self._checked(name, "BYTES", rank, shape)
        texts, start, size = [], 0, len(raw)
        try:
            while start < size:
                end = start + 4 + int.from_bytes(raw[start : start + 4], "little")
                if end > size:
                    raise ProtocolError(f"{name}: expected a readable tensor, got bytes that do not fit it")
                texts.append(raw[start + 4 : end].decode())
                start = end
        except UnicodeDecodeError as error:
            raise ProtocolError(f"{name}: expected UTF-8 text, got {error.object[:60]!r}") from error
        if len(texts) != math.prod(shape):
            raise ProtocolError(f"{name}: expected {math.prod(shape)} texts, as its shape says, got {len(texts)}")
        return texts, shape

    def floats(self, name: str, shape: tuple[int, ...]) -> Any:
        """Return an FP32 tensor as (nested) lists."""
        raw, shape = self._checked(name, "FP32", len(shape), shape)
        if len(raw) != 4 * math.prod(shape):
            raise ProtocolError(f"{name}: expected {4 * math.prod(shape)} bytes, got {len(raw)}")
        return np.frombuffer(raw, "<f4").reshape(shape).tolist()

    def _checked(
        self, name: str, datatype: str, rank: int, shape: tuple[int, ...] | None
    ) -> tuple[bytes, tuple[int, ...]]:
        output = self._outputs.get(name)
        if output is None or name not in self._raw:
            raise ProtocolError(f"{name}: expected this output, got an answer without it")
        got = tuple(output.shape)
        if output.datatype != datatype or len(got) != rank or (shape is not None and got != shape) or min(got) < 0:
            wanted = list(shape) if shape is not None else [-1] * rank
            found = _TYPES.get(output.datatype, output.datatype.lower())
            raise ProtocolError(f"{name}: expected {_TYPES[datatype]} {wanted}, got {found} {list(got)}")
        return self._raw[name], got


def read_page(response: Any, explain: bool, seconds: float) -> Page:
    """Return a storefront's answer without padding.

    Raises:
        ProtocolError: the answer breaks the contract.
    """
    answer = Answer(response)
    status = _read_status(answer)
    ids, (rows, width) = answer.texts("PRODUCT_ID", 2)
    scores = answer.floats("SCORE", (rows, width))
    themes, _ = answer.texts("THEME", 1, (rows,))
    keywords, (keyword_rows, most) = answer.texts("KEYWORDS", 2)
    if keyword_rows != rows:
        raise ProtocolError(f"KEYWORDS: expected {rows} rows, got {keyword_rows}")
    signals = answer.floats("SIGNALS", (rows, width, len(status.signals))) if explain else None
    said = status.document.get("placements", [])
    placements = []
    for row, theme in enumerate(themes):
        row_ids = ids[row * width : (row + 1) * width]
        if not theme and not any(row_ids):
            continue
        products = _products(row_ids, scores[row], None if signals is None else signals[row], status.signals)
        chosen = tuple(keyword for keyword in keywords[row * most : (row + 1) * most] if keyword)
        source = str(said[row].get("source", "")) if row < len(said) else ""
        placements.append(Placement(theme, chosen, products, source))
    return Page(tuple(placements), status, seconds)


def read_search(response: Any, explain: bool, query: str, seconds: float) -> SearchResult:
    """Return a search's answer without padding; raises as `read_page` does."""
    answer = Answer(response)
    status = _read_status(answer)
    ids, shape = answer.texts("PRODUCT_ID", 1)
    scores = answer.floats("SCORE", shape)
    signals = answer.floats("SIGNALS", (*shape, len(status.signals))) if explain else None
    return SearchResult(query, _products(ids, scores, signals, status.signals), status, seconds)


def _products(
    ids: Sequence[str], scores: Sequence[float], signals: Sequence[Sequence[float]] | None, names: tuple[str, ...]
) -> tuple[ScoredProduct, ...]:
    if signals is None:
        return tuple(
            [
                ScoredProduct(product_id, score, _NONE)
                for product_id, score in zip(ids, scores, strict=True)
                if product_id
            ]
        )
    return tuple(
        [
            ScoredProduct(product_id, score, Signals(names, values))
            for product_id, score, values in zip(ids, scores, signals, strict=True)
            if product_id
        ]
    )


def _read_status(answer: Answer) -> Status:
    text = answer.texts("STATUS", 1, (1,))[0][0]
    try:
        document = json.loads(text)
        stages = {
            str(name): StageStatus(
                source=str(stage["source"]),
                ms=float(stage.get("ms", math.nan)),
                reason=str(stage.get("reason") or ""),
                aiqa={str(reason): int(count) for reason, count in (stage.get("aiqa") or {}).items()},
            )
            for name, stage in document["stages"].items()
        }
        return Status(
            stages=stages,
            signals=tuple([str(name) for name in document["signals"]]),
            versions={str(part): str(version) for part, version in document["versions"].items()},
            document=document,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProtocolError(
            f"STATUS: expected JSON with stages, signals and versions, got {text[:200]!r} ({error!r})"
        ) from error
