"""Reads the inputs of ``storefront`` and ``search``, and refuses what the contract does not allow.

Texts (QUERY, SESSION and the texts of RULES) must be UTF-8, and are normalised by `plain_text`. Control and invisible
formatting characters become spaces, not errors, because they come from copy and paste. Session texts that are then
blank are skipped; a blank QUERY is refused. Product ids are not changed.
"""

from dataclasses import dataclass

import numpy as np

from endcap_server.declared.errors import InvalidRequest
from endcap_server.declared.tensors import Tensors
from endcap_server.shop.rules import MerchandisingRules, RulesError, read_rules
from endcap_server.shop.text import plain_text

MAX_HISTORY = 10_000
MAX_ID_BYTES = 256
MAX_SESSION = 100
MAX_SHOPPER_BYTES = 128
MAX_TEXT_CHARACTERS = 512
MAX_RULES_BYTES = 64 * 1024
MAX_PLACEMENTS = 16
MAX_PRODUCTS = 100
DEFAULT_PLACEMENTS = 4
DEFAULT_PRODUCTS = 12

_BYTES_PER_CHARACTER = 4


@dataclass(frozen=True)
class Request:
    """One checked request; ``query`` is None for a storefront, a search has one placement."""

    history: tuple[str, ...]
    session: tuple[str, ...]
    rules: MerchandisingRules
    query: str | None
    placements: int
    products: int
    budget_ms: int
    shopper: bytes = b""

    @property
    def is_search(self) -> bool:
        """Whether a QUERY was sent."""
        return self.query is not None


def read_request(inputs: Tensors, default_budget_ms: int, max_budget_ms: int) -> Request:
    """Check and read the tensors of a request.

    Args:
        inputs: The tensors that were sent, by name.
        default_budget_ms: BUDGET_MS of a request without one.
        max_budget_ms: Largest budget; longer ones are reduced.

    Raises:
        InvalidRequest: Names tensor, expected and got.
    """
    query = None
    if "QUERY" in inputs:
        texts = _texts(inputs["QUERY"], "QUERY", 1, "exactly 1 text")
        if len(texts) != 1:
            raise InvalidRequest("QUERY", "exactly 1 text", str(len(texts)))
        query = texts[0]
        if not query:
            raise InvalidRequest("QUERY", "a text of 1 to 512 characters that is not blank", "a blank text")
    return Request(
        history=_ids(inputs["HISTORY"]) if "HISTORY" in inputs else (),
        session=tuple(filter(None, _session(inputs["SESSION"]))) if "SESSION" in inputs else (),
        rules=_rules(inputs["RULES"]) if "RULES" in inputs else MerchandisingRules(),
        query=query,
        placements=1 if query is not None else _number(inputs, "PLACEMENTS", DEFAULT_PLACEMENTS, MAX_PLACEMENTS),
        products=_number(inputs, "PRODUCTS", DEFAULT_PRODUCTS, MAX_PRODUCTS),
        budget_ms=min(_number(inputs, "BUDGET_MS", default_budget_ms, None), max_budget_ms),
        shopper=_shopper(inputs["SHOPPER"]) if "SHOPPER" in inputs else b"",
    )


def _number(inputs: Tensors, name: str, default: int, highest: int | None) -> int:
    if name not in inputs:
        return default
    tensor = np.asarray(inputs[name])
    allowed = f"an integer of 1 to {highest}" if highest else "a positive number of milliseconds"
    if tensor.dtype.kind not in "iu" or tensor.size != 1:
        raise InvalidRequest(name, f"{allowed} (INT32 [1])", f"{tensor.dtype} {list(tensor.shape)}")
    value = int(tensor.reshape(-1)[0])
    if value < 1 or (highest is not None and value > highest):
        raise InvalidRequest(name, allowed, str(value))
    return value


def _values(tensor: np.ndarray, name: str) -> list[bytes]:
    tensor = np.asarray(tensor)
    if tensor.dtype.kind not in "OSU":
        raise InvalidRequest(name, "BYTES", str(tensor.dtype))
    if tensor.ndim > 1:
        raise InvalidRequest(name, "one dimension", f"shape {list(tensor.shape)}")
    values = tensor.reshape(-1).tolist()
    for value in values:
        if not isinstance(value, (bytes, str)):
            raise InvalidRequest(name, "BYTES", type(value).__name__)
    return [value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value for value in values]


def _decoded(value: bytes, name: str, position: int) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            name, "valid UTF-8", f"byte 0x{value[error.start]:02x} at {error.start} of text {position}"
        ) from None


def _ids(tensor: np.ndarray) -> tuple[str, ...]:
    values = _values(tensor, "HISTORY")
    if len(values) > MAX_HISTORY:
        raise InvalidRequest(
            "HISTORY", f"at most {MAX_HISTORY} product ids", str(len(values)), "send the most recent ones"
        )
    for position, value in enumerate(values):
        if len(value) > MAX_ID_BYTES:
            raise InvalidRequest(
                "HISTORY", f"product ids of at most {MAX_ID_BYTES} bytes", f"{len(value)} bytes in id {position}"
            )
    return tuple(_decoded(value, "HISTORY", position) for position, value in enumerate(values))


def _shopper(tensor: np.ndarray) -> bytes:
    values = _values(tensor, "SHOPPER")
    if len(values) != 1:
        raise InvalidRequest("SHOPPER", "one key (BYTES [1])", f"{len(values)} values")
    if len(values[0]) > MAX_SHOPPER_BYTES:
        advice = "send a hash of a longer key"
        raise InvalidRequest("SHOPPER", f"at most {MAX_SHOPPER_BYTES} bytes", f"{len(values[0])} bytes", advice)
    return values[0]


def _session(tensor: np.ndarray) -> list[str]:
    return _texts(tensor, "SESSION", MAX_SESSION, f"at most {MAX_SESSION} texts", "send the most recent ones")


def _texts(tensor: np.ndarray, name: str, most: int, expected: str, advice: str = "") -> list[str]:
    values = _values(tensor, name)
    if len(values) > most:
        raise InvalidRequest(name, expected, str(len(values)), advice)
    texts = []
    for position, value in enumerate(values):
        where = f" in text {position}" if most > 1 else ""
        limit = f"at most {MAX_TEXT_CHARACTERS} characters"
        if len(value) > MAX_TEXT_CHARACTERS * _BYTES_PER_CHARACTER:
            raise InvalidRequest(name, limit, f"{len(value)} bytes{where}")
        text = _decoded(value, name, position)
        if len(text) > MAX_TEXT_CHARACTERS:
            raise InvalidRequest(name, limit, f"{len(text)}{where}")
        texts.append(plain_text(text))
    return texts


def _rules(tensor: np.ndarray) -> MerchandisingRules:
    values = _values(tensor, "RULES")
    if len(values) != 1:
        raise InvalidRequest("RULES", "one JSON object (BYTES [1])", f"{len(values)} values")
    document = values[0]
    if len(document) > MAX_RULES_BYTES:
        raise InvalidRequest("RULES", f"at most {MAX_RULES_BYTES} bytes of JSON", f"{len(document)} bytes")
    _decoded(document, "RULES", 0)
    if not document.strip():
        return MerchandisingRules()
    try:
        return read_rules(document)
    except RulesError as error:
        raise InvalidRequest("RULES", error.expected, error.got) from None
