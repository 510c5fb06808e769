import json
import math
import threading

import numpy as np
import pytest
from endcap_client import Client, InvalidArgument, Options, ProtocolError, Refused, Rules
from endcap_client.encode import budget_ms
from fake_server import sent, serving, texts

pytestmark = pytest.mark.usefixtures("both_clients")


def asked(request) -> set[str]:
    return {output.name for output in request.outputs}


def test_a_page_comes_back_without_padding(service, address):
    with Client(address) as client:
        page = client.storefront()
    first, second = page.placements
    assert (first.theme, first.keywords) == ("Rainy days", ("umbrella", "rain coat"))
    assert second.keywords == ("teapot",)
    assert [product.product_id for product in second.products] == ["p4", "p5"]
    assert second.products[1].score == pytest.approx(0.5)
    assert not first.products[0].signals
    assert page.status.degraded == ("theme",)
    assert page.status.stages["theme"].aiqa == {"word_list": 2}
    assert page.status.stages["theme"].reason == "theme_llm: no answer in time"
    assert page.status.versions == {"catalogue": "c0ffee"}
    assert page.status.document["unknown_products"] == 1
    assert page.seconds > 0


def test_a_missing_placement_is_no_placement(service, address):
    service.outputs["THEME"][1] = b""
    service.outputs["PRODUCT_ID"][1] = b""
    with Client(address) as client:
        assert [placement.theme for placement in client.storefront().placements] == ["Rainy days"]


def test_only_what_is_asked_for_travels(service, address):
    with Client(address, timeout_s=1.0) as client:
        client.storefront()
    assert sent(service.requests[0]) == {"PLACEMENTS": [4], "PRODUCTS": [12], "BUDGET_MS": [985]}
    assert asked(service.requests[0]) == {"THEME", "KEYWORDS", "PRODUCT_ID", "SCORE", "STATUS"}


def test_all_inputs_travel(service, address):
    with Client(address) as client:
        client.storefront(
            history=["p1", "p2"],
            session=["café crème"],
            rules=Rules(pin=("p9",), max_per_brand=2, boost={"brand:x": 1.5}),
            placements=2,
            products=3,
            budget_ms=70,
        )
    tensors = sent(service.requests[0])
    assert json.loads(tensors.pop("RULES")[0]) == {"pin": ["p9"], "max_per_brand": 2, "boost": {"brand:x": 1.5}}
    assert tensors == {
        "HISTORY": ["p1", "p2"],
        "SESSION": ["café crème"],
        "PLACEMENTS": [2],
        "PRODUCTS": [3],
        "BUDGET_MS": [70],
    }


def test_explaining_asks_for_the_signals(service, address):
    with Client(address) as client:
        page = client.storefront(explain=True)
    assert asked(service.requests[0]) == {"THEME", "KEYWORDS", "PRODUCT_ID", "SCORE", "SIGNALS", "STATUS"}
    assert page.placements[1].products[0].signals == {"relevance": 6.0, "ranker": 7.0}


def test_search(search_service, address):
    with Client(address) as client:
        result = client.search("green tea", history=["p1"], products=3, explain=True)
    assert [product.product_id for product in result.products] == ["p4", "p5"]
    assert result.products[0].signals == {"relevance": 6.0, "ranker": 7.0}
    request = search_service.requests[0]
    assert request.model_name == "search"
    assert sent(request) == {"QUERY": ["green tea"], "HISTORY": ["p1"], "PRODUCTS": [3], "BUDGET_MS": [1985]}
    assert asked(request) == {"PRODUCT_ID", "SCORE", "SIGNALS", "STATUS"}


@pytest.mark.parametrize(
    ("rules", "travels"),
    [
        (None, None),
        (Rules(), None),
        ({"pin": ["p1"]}, {"pin": ["p1"]}),
        ('{"pin": ["p1"]}', {"pin": ["p1"]}),
        (Rules(exclude_brands=("x",), campaign="spring"), {"exclude": {"brands": ["x"]}, "campaign": "spring"}),
        (
            Rules(only_brands=("x",), price=(None, 9.5), least_in_stock=0.5),
            {"only": {"brands": ["x"]}, "price": {"max": 9.5}, "least_in_stock": 0.5},
        ),
        (Rules(max_per_brand=0), {"max_per_brand": 0}),
    ],
)
def test_rules(service, address, rules, travels):
    with Client(address) as client:
        client.storefront(rules=rules)
    tensors = sent(service.requests[0])
    assert (json.loads(tensors["RULES"][0]) if "RULES" in tensors else None) == travels


@pytest.mark.parametrize(("timeout_s", "expected"), [(0.5, 485), (3600, 3_599_985)])
def test_the_budget_is_the_timeout_less_a_margin(service, address, timeout_s, expected):
    with Client(address) as client:
        client.storefront(timeout_s=timeout_s)
    assert sent(service.requests[-1])["BUDGET_MS"] == [expected]


@pytest.mark.parametrize(("timeout_s", "expected"), [(0.01, 8), (0.5, 485), (0.0005, 1), (3600, 3_599_985)])
def test_short_deadlines_keep_a_fifth_as_the_margin(timeout_s, expected):
    assert budget_ms(None, 0.0, timeout_s, Options().margin_ms) == expected


def test_every_call_has_a_deadline(service, address):
    with Client(address, timeout_s=1.5) as client:
        client.storefront()
        client.storefront(timeout_s=0.75)
    assert service.seconds_left == pytest.approx([1.5, 0.75], abs=0.25)  # gRPC rounds deadlines


@pytest.mark.parametrize(
    ("arguments", "tensor"),
    [
        ({"history": "p1"}, "HISTORY"),
        ({"history": [7]}, "HISTORY"),
        ({"session": ["\ud800"]}, "SESSION"),
        ({"placements": 2.5}, "PLACEMENTS"),
        ({"products": True}, "PRODUCTS"),
        ({"products": 2**40}, "PRODUCTS"),
        ({"budget_ms": "soon"}, "BUDGET_MS"),
        ({"rules": {"pin": {1, 2}}}, "RULES"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": math.nan}, "timeout_s"),
    ],
)
def test_what_cannot_be_sent_is_refused_here(service, address, arguments, tensor):
    with Client(address) as client, pytest.raises(InvalidArgument) as caught:
        client.storefront(**arguments)
    assert caught.value.tensor == tensor
    assert caught.value.expected
    assert caught.value.got
    assert not service.requests


@pytest.mark.parametrize("address", ["localhost", "http://localhost:8001"])
def test_an_address_is_host_and_port(address):
    with pytest.raises(InvalidArgument, match="HOST:PORT"):
        Client(address)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("THEME", None, "THEME: expected this output"),
        ("SCORE", np.zeros((2, 2), np.float32), r"SCORE: expected float32 \[2, 3\], got float32 \[2, 2\]"),
        ("SCORE", np.zeros((2, 3), np.int32), "SCORE: expected float32"),
        ("KEYWORDS", texts([["a"]]), "KEYWORDS: expected 2 rows, got 1"),
        ("STATUS", texts(["{"]), "STATUS: expected JSON"),
        ("STATUS", texts(['{"stages": []}']), "STATUS: expected JSON"),
        ("THEME", np.array([b"\xff", b"x"], np.object_), "THEME: expected UTF-8"),
        ("SIGNALS", np.zeros((2, 3, 5), np.float32), r"SIGNALS: expected float32 \[2, 3, 2\]"),
    ],
)
def test_an_answer_that_breaks_the_contract(service, address, name, value, match):
    if value is None:
        del service.outputs[name]
    else:
        service.outputs[name] = value
    with Client(address) as client, pytest.raises(ProtocolError, match=match):
        client.storefront(explain=True)


def test_damaged_bytes_break_the_protocol(service, address):
    broken = service.ModelInfer

    def infer(request, context):
        response = broken(request, context)
        response.raw_output_contents[0] = b"\xff\xff\xff\x7f"
        return response

    service.ModelInfer = infer
    with serving(service) as damaged, Client(damaged) as client, pytest.raises(ProtocolError, match="THEME"):
        client.storefront()


def test_ready(service, address):
    with Client(address) as client:
        assert client.ready()
        service.loaded.remove("search")
        assert not client.ready()


def test_a_server_that_is_not_there_is_not_ready(closed_port):
    with Client(closed_port) as client:
        assert not client.ready()


def test_it_finds_a_server_that_came_back(service, closed_port):
    with Client(closed_port) as client:
        with pytest.raises(Refused):
            client.storefront()
        with serving(service, int(closed_port.rpartition(":")[2])):
            for _ in range(100):
                if client.ready():
                    break
                threading.Event().wait(0.1)
            assert client.storefront().placements
