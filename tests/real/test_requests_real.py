"""What a request may ask for, and what its answer promises, against the real server."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from endcap_client import Client
from endcap_server.launch import Server

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.grpc_address, timeout_s=20) as connected:
        yield connected


def strict_json(text: str) -> Any:
    """Parse JSON as other languages do: without NaN and infinities."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def ask_over_http(server: Server, model: str, **inputs: str | int) -> dict[str, Any]:
    """Every output of a model, by name, over HTTP/JSON."""
    tensors = [
        {"name": name, "shape": [1], "datatype": "INT32" if isinstance(value, int) else "BYTES", "data": [value]}
        for name, value in inputs.items()
    ]
    request = urllib.request.Request(
        f"http://{server.http_address}/v2/models/{model}/infer",
        json.dumps({"inputs": tensors}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        document = strict_json(answer.read().decode())
    return {output["name"]: output for output in document["outputs"]}


# One product of each brand: the answer is short, and padded.
SHORT = json.dumps({"max_per_brand": 1})


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("storefront", {"RULES": SHORT, "PRODUCTS": 100}),
        ("storefront", {"SESSION": "lamp", "BUDGET_MS": 1}),
        ("search", {"QUERY": "lamp", "RULES": SHORT, "PRODUCTS": 100}),
        ("search", {"QUERY": "lamp", "BUDGET_MS": 1}),
    ],
)
def test_answers_are_json(server: Server, model: str, inputs: dict[str, Any]) -> None:
    outputs = ask_over_http(server, model, **inputs)
    strict_json(outputs["STATUS"]["data"][0])
    ids, scores, signals = (outputs[name]["data"] for name in ("PRODUCT_ID", "SCORE", "SIGNALS"))
    padded = [index for index, product_id in enumerate(ids) if not product_id]
    assert bool(padded) == (inputs.get("RULES") == SHORT)
    width = outputs["SIGNALS"]["shape"][-1]
    for index in padded:
        assert scores[index] == 0
        assert not any(signals[index * width : (index + 1) * width])
