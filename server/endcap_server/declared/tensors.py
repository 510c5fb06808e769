"""The tensors that stages exchange: arrays of numbers, texts (BYTES), and JSON documents."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]


def bytes_tensor(texts: Iterable[str] | np.ndarray, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A BYTES tensor (object array of UTF-8 bytes) of texts, optionally reshaped; lone surrogates become "?"."""
    encoded = [text.encode(errors="replace") for text in texts]
    tensor = np.empty(len(encoded), dtype=np.object_)
    tensor[:] = encoded
    return tensor if shape is None else tensor.reshape(shape)


def texts_of(tensor: np.ndarray) -> list[str]:
    """The texts of an internal BYTES tensor, flat (tensors from outside are read by ``contract``)."""
    return [
        value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        for value in tensor.reshape(-1).tolist()
    ]


def document_tensor(text: str) -> np.ndarray:
    """A JSON document for another stage: uint8 [bytes of the text in UTF-8], writable; lone surrogates become "?".

    Not BYTES [1], because the Python backend decodes and encodes such tensors in Python, before and after the model.
    It passes numeric tensors without conversion.
    """
    return np.frombuffer(bytearray(text, "utf-8", "replace"), np.uint8)


def json_tensor(value: Any) -> np.ndarray:
    """A JSON document for callers, as BYTES [1]: compact, its keys in their order."""
    return bytes_tensor([compact_json(value)])


def json_of(tensor: np.ndarray) -> Any:
    """The JSON document of a tensor, of either kind."""
    return json.loads(tensor.tobytes() if tensor.dtype == np.uint8 else tensor.reshape(-1)[0])


compact_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Compact JSON, keys in their order."""
