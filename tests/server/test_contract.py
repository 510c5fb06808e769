from typing import Any

import numpy as np
import pytest
from endcap_server.declared.errors import InvalidRequest
from endcap_server.declared.tensors import bytes_tensor
from endcap_server.shop.text import plain_text
from endcap_server.stages.contract import Request, read_request
from hypothesis import example, given
from hypothesis import strategies as st


def read(**inputs: Any) -> Request:
    return read_request(inputs, default_budget_ms=2000, max_budget_ms=30_000)


def raw(*values: bytes) -> np.ndarray:
    tensor = np.empty(len(values), np.object_)
    tensor[:] = values
    return tensor


def int32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_nothing_sent_is_a_new_shopper() -> None:
    request = read()
    assert (request.history, request.session, request.query, request.is_search) == ((), (), None, False)
    assert (request.placements, request.products, request.budget_ms) == (4, 12, 2000)


def test_what_was_sent() -> None:
    request = read(
        HISTORY=bytes_tensor(["a", "ü", ""]),
        SESSION=bytes_tensor(["desk\tlamp ", "  ", "rug"]),
        PLACEMENTS=int32(16),
        PRODUCTS=int32(100),
        BUDGET_MS=int32(99_999),
        RULES=raw(b'{"max_per_brand": 2}'),
    )
    assert request.history == ("a", "ü", "")
    assert request.session == ("desk lamp", "rug")
    assert (request.placements, request.products, request.budget_ms) == (16, 100, 30_000)
    assert request.rules.max_per_brand == 2


def test_a_search_has_one_placement() -> None:
    request = read(QUERY=bytes_tensor([" Reading\x00 lamp​ "]), PLACEMENTS=int32(9))
    assert request.query == "Reading lamp"
    assert request.is_search
    assert request.placements == 1


INVALID = [
    (
        {"HISTORY": bytes_tensor(["x"] * 10_001)},
        "HISTORY: expected at most 10000 product ids, got 10001; send the most recent ones",
    ),
    (
        {"HISTORY": bytes_tensor(["x", "y" * 257])},
        "HISTORY: expected product ids of at most 256 bytes, got 257 bytes in id 1",
    ),
    ({"HISTORY": raw(b"ok", b"\xff")}, "HISTORY: expected valid UTF-8, got byte 0xff at 0 of text 1"),
    ({"HISTORY": int32(1)}, "HISTORY: expected BYTES, got int32"),
    ({"HISTORY": bytes_tensor(["a", "b"], (1, 2))}, r"HISTORY: expected one dimension, got shape \[1, 2\]"),
    ({"SESSION": bytes_tensor(["x"] * 101)}, "SESSION: expected at most 100 texts, got 101; send the most recent ones"),
    ({"SESSION": bytes_tensor(["x", "y" * 513])}, "SESSION: expected at most 512 characters, got 513 in text 1"),
    ({"SESSION": bytes_tensor(["ü" * 1025])}, "SESSION: expected at most 512 characters, got 2050 bytes in text 0"),
    (
        {"QUERY": bytes_tensor([" \t"])},
        "QUERY: expected a text of 1 to 512 characters that is not blank, got a blank text",
    ),
    ({"QUERY": bytes_tensor([])}, "QUERY: expected exactly 1 text, got 0"),
    ({"QUERY": bytes_tensor(["a", "b"])}, "QUERY: expected exactly 1 text, got 2"),
    ({"QUERY": raw(b"caf\xe9")}, "QUERY: expected valid UTF-8, got byte 0xe9 at 3 of text 0"),
    ({"PLACEMENTS": int32(0)}, "PLACEMENTS: expected an integer of 1 to 16, got 0"),
    ({"PLACEMENTS": int32(17)}, "PLACEMENTS: expected an integer of 1 to 16, got 17"),
    ({"PLACEMENTS": int32(1, 2)}, r"PLACEMENTS: expected an integer of 1 to 16 \(INT32 \[1\]\), got int32 \[2\]"),
    ({"PRODUCTS": np.array([3.0])}, r"PRODUCTS: expected an integer of 1 to 100 \(INT32 \[1\]\), got float64 \[1\]"),
    ({"BUDGET_MS": int32(0)}, "BUDGET_MS: expected a positive number of milliseconds, got 0"),
    ({"BUDGET_MS": int32(-5)}, "BUDGET_MS: expected a positive number of milliseconds, got -5"),
    ({"RULES": raw(b"x" * 65_537)}, "RULES: expected at most 65536 bytes of JSON, got 65537 bytes"),
    ({"RULES": raw(b"[]")}, r"RULES: expected one JSON object, got \[\]"),
    ({"RULES": raw(b"{", b"}")}, r"RULES: expected one JSON object \(BYTES \[1\]\), got 2 values"),
    ({"RULES": raw(b"\xff")}, "RULES: expected valid UTF-8"),
]


@pytest.mark.parametrize(("inputs", "message"), INVALID)
def test_invalid_requests_say_what_is_wrong(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read(**inputs)


TEXTS = st.one_of(st.binary(max_size=600), st.text(max_size=520).map(lambda text: text.encode(errors="replace")))


@given(
    history=st.lists(TEXTS, max_size=5),
    session=st.lists(TEXTS, max_size=5),
    query=st.lists(TEXTS, max_size=2),
    rules=st.lists(TEXTS, max_size=2),
    number=st.integers(-(2**31), 2**31 - 1),
)
@example(history=[], session=[b"\xed\xa0\x80"], query=[b"\x00"], rules=[b'"\\ud800"'], number=0)
def test_any_bytes_are_read_or_refused(
    history: list[bytes], session: list[bytes], query: list[bytes], rules: list[bytes], number: int
) -> None:
    inputs = {
        "HISTORY": raw(*history),
        "SESSION": raw(*session),
        "QUERY": raw(*query),
        "RULES": raw(*rules),
        "PLACEMENTS": int32(number),
        "PRODUCTS": int32(number),
        "BUDGET_MS": int32(number),
    }
    for name, tensor in inputs.items():
        try:
            request = read(**{name: tensor})
        except InvalidRequest:
            continue
        assert 1 <= request.placements <= 16
        assert 1 <= request.products <= 100
        assert 1 <= request.budget_ms <= 30_000
        for text in (*request.session, request.query or "x"):
            assert text == plain_text(text)
            assert text
