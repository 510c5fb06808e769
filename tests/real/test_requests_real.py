"""What a request may ask for, and what its answer promises, against the real server."""

import json
import re
import urllib.request
from typing import Any

import numpy as np
import pytest
from endcap_client import Client, Rules
from endcap_server.launch import Server
from endcap_server.shop.store import ItemStore


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


@pytest.mark.parametrize(
    ("rules", "session"),
    [
        (Rules(exclude_categories=("Pets",)), []),
        (Rules(exclude_categories=("Pets",)), ["cat food", "kitty dinner", "dog treats"]),
        (Rules(exclude_brands=("Whisker Row",)), ["whisker row"]),
    ],
)
def test_no_text_of_a_page_names_what_is_excluded(
    client: Client, store: ItemStore, rules: Rules, session: list[str]
) -> None:
    brands, categories = np.array([*store.brands, ""]), np.array([*store.categories, ""])
    gone = np.isin(brands[store.brand], rules.exclude_brands) | np.char.startswith(categories[store.category], "Pets")
    history = store.product_ids.take(np.flatnonzero(gone & store.in_stock)[:8])
    page = client.storefront(history=history, session=session, rules=rules, placements=6, products=4)
    said = [text for placement in page.placements for text in (placement.theme, *placement.keywords)]
    pattern = r"\b(pets?|cats?|kitty|dogs?|pupp|litter)\b" if rules.exclude_categories else r"whisker"
    assert [text for text in said if re.search(pattern, text.lower())] == []
    assert len(page.placements) == 6
    assert all(placement.theme and placement.products for placement in page.placements)


@pytest.mark.parametrize(
    ("query", "reason"),
    [("\u043b\u0430\u043c\u043f\u0430", "unknown_script"), ("\U0001f600\U0001f415", "no_words"), ("lamp", None)],
)
def test_a_search_that_cannot_be_understood_says_so(client: Client, query: str, reason: str | None) -> None:
    result = client.search(query, explain=True)
    assert result.status.understood == (reason is None)
    assert result.status.document.get("not_understood") == reason
    assert reason is None or max(product.signals["relevance"] for product in result.products) < 0.1


def test_full_width_letters_are_those_that_they_show(client: Client) -> None:
    plain, wide = client.search("desk lamp"), client.search("\uff24\uff45\uff53\uff4b \uff4c\uff41\uff4d\uff50".lower())
    assert [product.product_id for product in plain.products] == [product.product_id for product in wide.products]
