"""Converts a request's values to bytes: checked, and packed once for all attempts."""

import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from endcap_client.errors import InvalidArgument
from endcap_client.requests import SearchRequest, StorefrontRequest
from endcap_client.staging import shopper_key
from endcap_client.types import Rules

STOREFRONT_OUTPUTS = ("THEME", "KEYWORDS", "PRODUCT_ID", "SCORE", "STATUS")
SEARCH_OUTPUTS = ("PRODUCT_ID", "SCORE", "STATUS")
_INT32_MAX = 2**31 - 1


class Message:
    """One request, complete except for the time left."""

    def __init__(self, model: str, outputs: Iterable[str], explain: bool, shopper: bytes = b""):
        # Only requested outputs are transferred, so SIGNALS are requested on demand.
        asked = [*outputs, *(("SIGNALS",) if explain else ())]
        self.model = model
        self.shopper = shopper
        """Key by which trials of generations choose shoppers."""
        self._message = service_pb2.ModelInferRequest(
            model_name=model,
            outputs=[service_pb2.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in asked],
        )

    def add_texts(self, name: str, texts: Iterable[str]) -> None:
        """Add a BYTES [n] tensor, or none without texts (all of them are optional)."""
        if isinstance(texts, str | bytes):
            # A string is iterable, too: its letters would be sent as product ids.
            raise InvalidArgument.of(name, "a sequence of texts", f"one text, {texts[:40]!r}")
        try:
            encoded = [_encoded(name, text) for text in texts]
        except TypeError as error:
            raise InvalidArgument.of(name, "a sequence of texts", f"{type(texts).__name__} {texts!r:.40}") from error
        if encoded:
            raw = b"".join([struct.pack("<I", len(text)) + text for text in encoded])
            self._add(name, "BYTES", len(encoded), raw)

    def add_number(self, name: str, value: int) -> None:
        """Add an INT32 [1] tensor; the server checks the range."""
        self._add(name, "INT32", 1, struct.pack("<i", _checked_number(name, value)))

    def add_rules(self, rules: Rules | Mapping[str, Any] | str | None) -> None:
        """Add RULES, if there are any; the server checks the document."""
        if rules is None:
            return
        if isinstance(rules, Rules):
            text = rules.to_json()
        elif isinstance(rules, str):
            text = rules
        else:
            try:
                text = json.dumps(rules, ensure_ascii=False)
            except TypeError as error:
                raise InvalidArgument.of("RULES", "what JSON can hold", str(error)) from error
        if text != "{}":
            self.add_texts("RULES", [text])

    def to_bytes(self, budget_ms: int, model: str = "") -> bytes:
        """Return the message with this budget, for `model` or by default its own; can be called repeatedly."""
        self._message.model_name = model or self.model
        raw = struct.pack("<i", budget_ms)
        if self._message.inputs and self._message.inputs[-1].name == "BUDGET_MS":
            self._message.raw_input_contents[-1] = raw
        else:
            self._add("BUDGET_MS", "INT32", 1, raw)
        return self._message.SerializeToString()

    def _add(self, name: str, datatype: str, length: int, raw: bytes) -> None:
        self._message.inputs.add(name=name, datatype=datatype, shape=(length,))
        self._message.raw_input_contents.append(raw)


def storefront_message(model: str, request: StorefrontRequest) -> Message:
    """Pack a storefront request.

    Raises:
        InvalidArgument: a value cannot be sent.
    """
    shopper = shopper_key(request.shopper, request.history, request.session)
    message = Message(model, STOREFRONT_OUTPUTS, request.explain, shopper)
    message.add_texts("SHOPPER", [request.shopper] if request.shopper else [])
    message.add_texts("HISTORY", request.history)
    message.add_texts("SESSION", request.session)
    message.add_rules(request.rules)
    message.add_number("PLACEMENTS", request.placements)
    message.add_number("PRODUCTS", request.products)
    return message


def search_message(model: str, request: SearchRequest) -> Message:
    """Pack a search request; raises as `storefront_message` does."""
    shopper = shopper_key(request.shopper, request.history, (request.query,))
    message = Message(model, SEARCH_OUTPUTS, request.explain, shopper)
    message.add_texts("SHOPPER", [request.shopper] if request.shopper else [])
    message.add_texts("QUERY", [request.query])
    message.add_texts("HISTORY", request.history)
    message.add_rules(request.rules)
    message.add_number("PRODUCTS", request.products)
    return message


def budget_ms(asked_ms: int | None, elapsed_s: float, left_s: float, margin_ms: float) -> int:
    """Return the server's budget: the time left less a margin, at most the caller's budget.

    Args:
        asked_ms: the caller's budget of the whole call, or None.
        elapsed_s: elapsed time of the call (retries, hedges), seconds.
        left_s: time until the deadline, seconds.
        margin_ms: time for the network; at most a fifth of the time left is used.
    """
    left_ms = 1000 * left_s
    allowed = max(1, int(left_ms - min(margin_ms, 0.2 * left_ms)))
    if asked_ms is None:
        return min(allowed, _INT32_MAX)
    asked = _checked_number("BUDGET_MS", asked_ms)
    # Invalid values (0, -5) are sent without changes, so that the server reports them.
    return asked if asked < 1 else min(allowed, max(1, asked - int(1000 * elapsed_s)))


def _checked_number(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not -_INT32_MAX <= value <= _INT32_MAX:
        raise InvalidArgument.of(name, "a whole number of 32 bits", repr(value))
    return int(value)


def _encoded(name: str, text: str) -> bytes:
    if not isinstance(text, str):
        raise InvalidArgument.of(name, "texts", f"{type(text).__name__} {text!r}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument.of(name, "text that UTF-8 can hold", ascii(text)) from error
