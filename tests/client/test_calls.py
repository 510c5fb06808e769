"""The course of a call, step by step, with a clock that stands still until it is told to go on."""

import json

import pytest
from endcap_client import Hedge, ModelError, Options, Overloaded, Refused, Retry, SearchRequest
from endcap_client.calls import Calls, Outcome, Pause, Receive, Send
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor

LOST = ("UNAVAILABLE", "Socket closed")
FULL = ("UNAVAILABLE", "Exceeds maximum queue size")


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def answer() -> service_pb2.ModelInferResponse:
    status = json.dumps({"stages": {}, "signals": [], "versions": {}}).encode()
    response = service_pb2.ModelInferResponse()
    for name, datatype, shape, raw in (
        ("PRODUCT_ID", "BYTES", [1], b"\x02\x00\x00\x00p1"),
        ("SCORE", "FP32", [1], b"\x00\x00\x80\x3f"),
        ("STATUS", "BYTES", [1], len(status).to_bytes(4, "little") + status),
    ):
        response.outputs.add(name=name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(raw)
    return response


def well(send: Send) -> Outcome:
    return Outcome(send.number, send.server, answer())


def failed(send: Send, failure: tuple[str, str]) -> Outcome:
    return Outcome(send.number, send.server, None, *failure)


def budget(send: Send) -> int:
    request = service_pb2.ModelInferRequest.FromString(send.body)
    tensors = dict(zip([tensor.name for tensor in request.inputs], request.raw_input_contents, strict=True))
    assert deserialize_bytes_tensor(tensors["QUERY"]).tolist() == [b"tea"]
    return int.from_bytes(tensors["BUDGET_MS"], "little")


def result(steps, outcome):
    with pytest.raises(StopIteration) as done:
        steps.send(outcome)
    return done.value.value


def test_a_call_that_goes_well(clock):
    calls = Calls(["a:1"], Options(timeout_s=1.0), clock)
    steps = calls.search(SearchRequest("tea"))
    send = next(steps)
    assert (send.timeout_s, budget(send), send.alone) == (1.0, 985, True)
    assert steps.send(None) == Receive(None)
    clock.now += 0.25
    found = result(steps, well(send))
    assert [product.product_id for product in found.products] == ["p1"]
    assert found.seconds == 0.25


def test_each_try_gets_what_is_left(clock):
    calls = Calls(["a:1", "b:1"], Options(timeout_s=1.0), clock)
    steps = calls.search(SearchRequest("tea"))
    first = next(steps)
    steps.send(None)
    clock.now += 0.375
    pause = steps.send(failed(first, LOST))
    assert isinstance(pause, Pause)
    clock.now += 0.125
    second = steps.send(None)
    assert second.server != first.server
    assert second.timeout_s == pytest.approx(0.5)
    assert budget(second) == 485


def test_no_try_is_made_that_could_not_be_waited_for(clock):
    calls = Calls(["a:1"], Options(timeout_s=1.0, retry=Retry(base_ms=100, max_ms=100)), clock)
    steps = calls.search(SearchRequest("tea"))
    first = next(steps)
    steps.send(None)
    clock.now += 1.0
    with pytest.raises(Refused) as caught:
        steps.send(failed(first, LOST))
    assert caught.value.attempts == 1


@pytest.fixture
def hedged(clock):
    """A call whose second request is under way too: (steps, first, second, calls)."""
    calls = Calls(["a:1", "b:1"], Options(timeout_s=1.0, hedge=Hedge(min_calls=1)), clock)
    calls.policy.went_well("search", 0.25)
    steps = calls.search(SearchRequest("tea"))
    first = next(steps)
    assert not first.alone
    assert steps.send(None) == Receive(0.25)
    clock.now += 0.25
    second = steps.send(None)
    assert (second.server, budget(second)) == (1 - first.server, 735)
    assert steps.send(None) == Receive(None)
    return steps, first, second, calls


@pytest.mark.parametrize("winner", [0, 1])
def test_the_first_answer_wins(hedged, winner):
    steps, *sends, calls = hedged
    assert result(steps, well(sends[winner])).products
    assert calls.policy.counters.snapshot().hedges_won == winner


@pytest.mark.parametrize("failure", [LOST, FULL, ("INTERNAL", "died")])
def test_one_of_two_may_fail(hedged, failure):
    steps, first, second, _ = hedged
    assert steps.send(failed(second, failure)) == Receive(None)
    assert result(steps, well(first)).products


@pytest.mark.parametrize("failures", [(FULL, LOST), (LOST, FULL)])
def test_if_one_of_two_is_overloaded_there_is_no_third(hedged, failures):
    steps, first, second, _ = hedged
    steps.send(failed(first, failures[0]))
    with pytest.raises(Overloaded):
        steps.send(failed(second, failures[1]))


def test_two_lost_calls_are_followed_by_one_more(hedged):
    steps, first, second, _ = hedged
    steps.send(failed(first, LOST))
    assert isinstance(steps.send(failed(second, LOST)), Pause)
    third = steps.send(None)
    assert third.alone
    steps.send(None)
    with pytest.raises(ModelError) as caught:
        steps.send(failed(third, ("INTERNAL", "died")))
    assert caught.value.attempts == 3


def test_a_fault_of_the_request_ends_both(hedged):
    steps, first, *_ = hedged
    with pytest.raises(Exception, match="PRODUCTS"):
        steps.send(failed(first, ("INVALID_ARGUMENT", "PRODUCTS: expected 1..100, got 0")))
