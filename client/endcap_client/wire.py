"""Between the client's values and Triton's tensors: packing requests, reading answers, checking both."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult

from endcap_client.errors import InvalidArgument, ProtocolError
from endcap_client.types import Placement, Rules, ScoredProduct, StageStatus, Status

STOREFRONT_OUTPUTS = ("THEME", "KEYWORDS", "PRODUCT_ID", "SCORE", "STATUS")
SEARCH_OUTPUTS = ("PRODUCT_ID", "SCORE", "STATUS")
_INT32_MAX = 2**31 - 1


def requested(names: tuple[str, ...], explain: bool) -> list[InferRequestedOutput]:
    """Return the outputs to ask for: steps whose outputs nobody asks for are not run."""
    return [InferRequestedOutput(name) for name in (*names, *(("SIGNALS",) if explain else ()))]


def texts_input(name: str, texts: Iterable[str]) -> list[InferInput]:
    """Return a BYTES [n] tensor in a list, or no tensor where there are no texts (all of ours are optional)."""
    if isinstance(texts, str | bytes):
        # A string is iterable too: its letters would travel as product ids.
        raise InvalidArgument.of(name, "a sequence of texts", f"one text, {texts[:40]!r}")
    encoded = [_encoded(name, text) for text in texts]
    if not encoded:
        return []
    tensor = InferInput(name, [len(encoded)], "BYTES")
    return [tensor.set_data_from_numpy(np.array(encoded, dtype=np.object_))]


def number_input(name: str, value: int) -> InferInput:
    """Return an INT32 [1] tensor; the range is the server's to judge."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not -_INT32_MAX <= value <= _INT32_MAX:
        raise InvalidArgument.of(name, "a whole number of 32 bits", repr(value))
    return InferInput(name, [1], "INT32").set_data_from_numpy(np.array([value], dtype=np.int32))


def rules_input(rules: Rules | Mapping[str, Any] | str | None) -> list[InferInput]:
    """Return RULES as a tensor in a list, or none; the server alone judges the document."""
    if rules is None:
        return []
    if isinstance(rules, Rules):
        text = rules.to_json()
    elif isinstance(rules, str):
        text = rules
    else:
        try:
            text = json.dumps(rules, ensure_ascii=False)
        except TypeError as error:
            raise InvalidArgument.of("RULES", "what JSON can hold", str(error)) from error
    return [] if text == "{}" else texts_input("RULES", [text])


def _encoded(name: str, text: str) -> bytes:
    if not isinstance(text, str):
        raise InvalidArgument.of(name, "texts", f"{type(text).__name__} {text!r}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument.of(name, "text that UTF-8 can hold", ascii(text)) from error


def read_placements(result: InferResult, status: Status, explain: bool) -> tuple[Placement, ...]:
    """Return the page's placements; padding, of products as of whole placements, is the empty text."""
    ids = _tensor(result, "PRODUCT_ID", np.object_, 2)
    scores = _tensor(result, "SCORE", np.float32, 2, ids.shape)
    themes = _tensor(result, "THEME", np.object_, 1, ids.shape[:1])
    keywords = _tensor(result, "KEYWORDS", np.object_, 2)
    if len(keywords) != len(themes):
        raise ProtocolError(f"KEYWORDS: expected {len(themes)} rows, got {len(keywords)}")
    signals = _tensor(result, "SIGNALS", np.float32, 3, (*ids.shape, len(status.signals))) if explain else None
    return tuple(
        Placement(
            theme=_decoded("THEME", theme),
            keywords=tuple(_decoded("KEYWORDS", keyword) for keyword in keywords[p] if keyword),
            products=_products(ids[p], scores[p], None if signals is None else signals[p], status),
        )
        for p, theme in enumerate(themes)
        if theme or any(ids[p])
    )


def read_products(result: InferResult, status: Status, explain: bool) -> tuple[ScoredProduct, ...]:
    """Return a search's products without padding."""
    ids = _tensor(result, "PRODUCT_ID", np.object_, 1)
    scores = _tensor(result, "SCORE", np.float32, 1, ids.shape)
    signals = _tensor(result, "SIGNALS", np.float32, 2, (*ids.shape, len(status.signals))) if explain else None
    return _products(ids, scores, signals, status)


def read_status(result: InferResult) -> Status:
    """Return the STATUS document as a value."""
    text = _decoded("STATUS", _tensor(result, "STATUS", np.object_, 1, (1,))[0])
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
            signals=tuple(str(name) for name in document["signals"]),
            versions={str(part): str(version) for part, version in document["versions"].items()},
            document=document,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProtocolError(
            f"STATUS: expected JSON with stages, signals and versions, got {text[:200]!r} ({error!r})"
        ) from error


def _products(
    ids: np.ndarray, scores: np.ndarray, signals: np.ndarray | None, status: Status
) -> tuple[ScoredProduct, ...]:
    products = []
    for n, (product_id, score) in enumerate(zip(ids, scores.tolist(), strict=True)):
        if not product_id:
            continue
        named = {} if signals is None else dict(zip(status.signals, signals[n].tolist(), strict=True))
        products.append(ScoredProduct(_decoded("PRODUCT_ID", product_id), score, named))
    return tuple(products)


def _tensor(
    result: InferResult, name: str, dtype: type[np.generic], rank: int, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    try:
        array = result.as_numpy(name)
    except Exception as error:  # tritonclient lets struct, NumPy and unicode errors through, as the bytes happen to be
        raise ProtocolError(f"{name}: expected a readable tensor, got bytes that do not fit it: {error}") from error
    if array is None:
        raise ProtocolError(f"{name}: expected this output, got an answer without it")
    if array.dtype != np.dtype(dtype) or array.ndim != rank or (shape is not None and array.shape != shape):
        wanted = list(shape) if shape is not None else [-1] * rank
        raise ProtocolError(
            f"{name}: expected {np.dtype(dtype).name} {wanted}, got {array.dtype.name} {list(array.shape)}"
        )
    return array


def _decoded(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"{name}: expected UTF-8 text, got {value[:60]!r}") from error
