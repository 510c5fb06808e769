"""What the client does about faults: whom it asks again and when, and what it tells its caller."""

import contextlib
import time

import grpc
import pytest
from endcap_client import (
    Client,
    DeadlineExceeded,
    Hedge,
    InvalidArgument,
    ModelError,
    Options,
    Overloaded,
    Page,
    ProtocolError,
    Refused,
    Retry,
    SearchRequest,
    StorefrontRequest,
)
from fake_server import Service, sent, serving

CODE = grpc.StatusCode
LOST = (CODE.UNAVAILABLE, "Socket closed")
NOT_READY = (CODE.UNAVAILABLE, "Request for unknown model: 'storefront' is not at ready state")
FULL = (CODE.UNAVAILABLE, "Exceeds maximum queue size")
pytestmark = pytest.mark.usefixtures("both_clients")


@pytest.fixture
def other(service):
    """A second server with the same answers, and its address."""
    second = Service()
    second.outputs = service.outputs
    with serving(second) as address:
        yield second, address


@pytest.mark.parametrize("failure", [LOST, NOT_READY])
def test_unavailable_then_well(service, address, failure):
    service.failures = [failure, failure]
    with Client(address) as client:
        assert client.storefront().placements
        assert client.counts.retries == 2
    assert len(service.requests) == 3


def test_the_budget_ms_of_another_try_is_what_is_left(service, address):
    service.failures = [LOST]
    service.delay_s = 0.3
    with Client(address, timeout_s=2.0) as client:
        client.storefront()
    first, second = (sent(request)["BUDGET_MS"][0] for request in service.requests)
    assert first == 1985
    assert second <= first - 300
    assert service.seconds_left[1] <= service.seconds_left[0] - 0.25


def test_an_own_budget_shrinks_too(service, address):
    service.failures = [LOST]
    service.delay_s = 0.2
    with Client(address, timeout_s=5.0) as client:
        client.storefront(budget_ms=1000)
    first, second = (sent(request)["BUDGET_MS"][0] for request in service.requests)
    assert first == 1000
    assert second <= 800


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (FULL, Overloaded),
        ((CODE.UNAVAILABLE, "overloaded: try again later"), Overloaded),
        ((CODE.UNAVAILABLE, "something new"), Overloaded),
        ((CODE.RESOURCE_EXHAUSTED, "out of memory"), Overloaded),
        ((CODE.INTERNAL, "the model died"), ModelError),
        ((CODE.NOT_FOUND, "unknown model"), ModelError),
        ((CODE.INVALID_ARGUMENT, "PRODUCTS: expected 1..100, got 0"), InvalidArgument),
        ((CODE.DEADLINE_EXCEEDED, "too late"), DeadlineExceeded),
        ((CODE.UNIMPLEMENTED, "what?"), ProtocolError),
    ],
)
def test_nothing_but_lost_connections_and_absent_models_is_tried_again(service, address, other, failure, kind):
    second, second_address = other
    service.failure = second.failure = failure
    with Client([address, second_address]) as client, pytest.raises(kind):
        client.storefront()
    assert len(service.requests) + len(second.requests) == 1


def test_retries_can_be_turned_off(service, address):
    service.failures = [LOST]
    with Client(address, options=Options(retry=None)) as client, pytest.raises(Refused):
        client.storefront()
    assert len(service.requests) == 1


def test_retries_stop_when_their_budget_is_spent(service, address):
    service.failure = LOST
    options = Options(retry=Retry(attempts=4, base_ms=1, budget_burst=5))
    with Client(address, options=options) as client:
        for _ in range(10):
            with pytest.raises(Refused):
                client.storefront()
        assert client.counts.retries == 5
        assert client.counts.errors == {"refused": 10}
    assert len(service.requests) == 15


def test_after_overload_there_are_no_second_tries_for_a_while(service, address):
    service.failures = [FULL, LOST]
    with Client(address) as client:
        with pytest.raises(Overloaded):
            client.storefront()
        with pytest.raises(Refused):
            client.storefront()
        assert client.counts.retries == 0


def test_the_error_says_how_often_it_was_tried(closed_port):
    options = Options(retry=Retry(attempts=3, base_ms=1))
    with Client(closed_port, options=options) as client, pytest.raises(Refused, match="connection refused") as caught:
        client.storefront()
    assert caught.value.attempts == 3


def test_addresses_take_turns(service, address, other):
    second, second_address = other
    with Client([address, second_address]) as client:
        for _ in range(6):
            client.storefront()
    assert (len(service.requests), len(second.requests)) == (3, 3)


def test_a_dead_address_costs_no_answer(service, address, closed_port):
    with Client([closed_port, address]) as client:
        for _ in range(10):
            assert client.storefront().placements
        assert client.ready()
        assert client.counts.retries <= 2, "once known to refuse, it is passed over"


def test_a_server_that_goes_away_and_comes_back(service, closed_port):
    port = int(closed_port.rpartition(":")[2])
    with Client(closed_port, timeout_s=5) as client:
        for _ in range(2):
            with serving(service, port):
                until = time.monotonic() + 10
                while not client.ready() and time.monotonic() < until:
                    time.sleep(0.05)
                assert client.storefront().placements
            with pytest.raises(Refused):
                client.storefront()


def hedging(**more) -> Options:
    return Options(timeout_s=5.0, hedge=Hedge(min_calls=2, min_ms=20), **more)


def test_a_slow_answer_is_asked_for_elsewhere(service, address, other):
    second, second_address = other
    with Client([address, second_address], options=hedging()) as client:
        for _ in range(4):
            client.storefront()
        assert client.counts.hedges <= 1, "nobody is slow yet"
        service.delay_s = 3.0
        for _ in range(4):
            assert client.storefront(timeout_s=2.0).placements, "less time than the slow server takes"
        assert client.counts.hedges_won >= 2
        assert client.counts.errors == {}
    assert service.cancelled.wait(5), "the slow call is called off"
    hedge = sent(second.requests[-1])["BUDGET_MS"][0]
    assert hedge <= 1985


def test_a_hedge_that_is_turned_away_leaves_the_first_call_alone(service, address, other):
    second, second_address = other
    with Client([address, second_address], options=hedging()) as client:
        for _ in range(4):
            client.storefront()
        service.delay_s = second.delay_s = 0.3
        second.failure = FULL
        answers = []
        for _ in range(2):  # one of the two begins at the first server
            with contextlib.suppress(Overloaded):
                answers.append(client.storefront())
        assert len(answers) >= 1


def test_hedges_draw_on_the_budget(service, address, other):
    second, second_address = other
    with Client([address, second_address], options=hedging(retry=Retry(budget_burst=3, budget_share=0))) as client:
        for _ in range(4):
            client.storefront()
        service.delay_s = second.delay_s = 0.1
        for _ in range(8):
            client.storefront()
        assert client.counts.hedges == 3


def test_one_address_is_never_hedged(service, address):
    with Client(address, options=hedging()) as client:
        for _ in range(4):
            client.storefront()
        service.delay_s = 0.2
        client.storefront()
        assert client.counts.hedges == 0


def test_batches_keep_their_order_and_lose_nothing(service, address):
    service.failures = [(CODE.INTERNAL, "died")]
    service.delay_s = 0.05
    requests = [StorefrontRequest(history=[f"p{number}"]) for number in range(12)]
    requests[5] = StorefrontRequest(history="p5")
    with Client(address) as client:
        answers = client.storefronts(requests, concurrency=4)
    assert len(answers) == 12
    assert isinstance(answers[5], InvalidArgument)
    kinds = [type(answer) for answer in answers]
    assert kinds.count(ModelError) == 1
    assert kinds.count(Page) == 10
    assert service.most_at_once == 4


def test_batches_of_searches(search_service, address):
    with Client(address) as client:
        results = client.searches((SearchRequest(query) for query in ("tea", "cup", "pot")), concurrency=2)
        assert [result.query for result in results] == ["tea", "cup", "pot"]
        assert client.searches([]) == []
        with pytest.raises(InvalidArgument, match="concurrency"):
            client.searches([SearchRequest("tea")], concurrency=0)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (LOST, "refused"),
        (FULL, "overloaded"),
        ((CODE.INTERNAL, "died"), "model"),
        ((CODE.DEADLINE_EXCEEDED, "late"), "deadline"),
    ],
)
def test_the_default_takes_the_place_of_what_cannot_be_had(service, address, failure, reason):
    with Client(address) as client:
        assert isinstance(client.storefront_or("static page", history=["p1"], products=3), Page)
        service.failure = failure
        assert client.storefront_or("static page", history=["p1"]) == "static page"
        assert client.search_or(None, "tea", products=3) is None
        assert client.counts.fallbacks == {reason: 2}


def test_a_mistake_is_not_covered_up(service, address):
    service.failure = (CODE.INVALID_ARGUMENT, "PRODUCTS: expected 1..100, got 0")
    with Client(address) as client:
        with pytest.raises(InvalidArgument):
            client.storefront_or("static page", products=0)
        with pytest.raises(InvalidArgument):
            client.storefront_or("static page", history="p1")
        service.failure = (CODE.UNIMPLEMENTED, "what?")
        with pytest.raises(ProtocolError):
            client.storefront_or("static page")
        assert client.counts.fallbacks == {}


def test_metadata_arrives(service, address):
    with Client(address, options=Options(metadata={"tenant": "shop-7", "token-bin": b"\x00\xff"})) as client:
        client.storefront(metadata={"request-id": "r1"})
    metadata = service.metadata[0]
    assert (metadata["tenant"], metadata["request-id"], metadata["token-bin"]) == ("shop-7", "r1", b"\x00\xff")
    with Client(address) as client, pytest.raises(InvalidArgument, match="metadata"):
        client.storefront(metadata={"Request-Id": "r1"})


def test_message_sizes_are_limited(service, address):
    with (
        Client(address, options=Options(max_receive_bytes=200)) as client,
        pytest.raises(ProtocolError, match="max_receive_bytes"),
    ):
        client.storefront()
    with Client(address, options=Options(max_send_bytes=1000)) as client:
        with pytest.raises(InvalidArgument, match=r"at most 1000 bytes \(max_send_bytes\)"):
            client.storefront(history=["x" * 1000])
        assert client.storefront(history=["x"]).placements


def test_a_request_that_is_too_long_for_the_server(service):
    with serving(service, options=[("grpc.max_receive_message_length", 500)]) as address, Client(address) as client:
        assert client.storefront().placements
        with pytest.raises(ProtocolError, match="larger than"):
            client.storefront(history=["x" * 1000])


def test_a_server_that_drains_is_passed_over(service, address, other):
    _, second_address = other
    service.failure = (CODE.UNAVAILABLE, "Server is stopping, scheduler for model has stopped accepting new requests")
    with Client([address, second_address]) as client:
        for _ in range(10):
            assert client.storefront().placements
        assert client.counts.retries <= 2
