"""Split and shadow traffic: the server says so in STATUS, the client follows, and nobody pays for a trial."""

import json
import time

import grpc
import pytest
from conftest import STATUS
from endcap_client import Client, InvalidArgument, Options
from endcap_client.staging import Staging, StagingTable, read_staging, shopper_key
from fake_server import Service, serving, texts

TRIAL = {"generation": "3", "mode": "split", "share": 0.5, "models": {"storefront": "storefront__g3"}}


def status(**trial: object) -> dict:
    return STATUS | {"staging": TRIAL | trial}


def says(service: Service, document: dict) -> None:
    service.outputs["STATUS"] = texts([json.dumps(document)])


def asked(service: Service) -> list[str]:
    return [request.model_name for request in service.requests]


@pytest.fixture
def shoppers() -> tuple[str, str]:
    """Somebody whom generation 3 gets half of the time, and somebody whom it does not."""
    trial = Staging("3", "split", 0.5, {})
    names = [f"shopper {number}" for number in range(50)]
    chosen = [name for name in names if trial.takes(shopper_key(name, (), ()))]
    return chosen[0], next(name for name in names if name not in chosen)


@pytest.mark.usefixtures("both_clients")
def test_a_split_goes_by_shopper(service: Service, address: str, shoppers: tuple[str, str]) -> None:
    says(service, status())
    with Client(address) as client:
        client.storefront()
        for _ in range(3):
            for shopper in shoppers:
                client.storefront(shopper=shopper)
        counts = client.counts
    assert asked(service) == ["storefront", *["storefront__g3", "storefront"] * 3]
    assert counts.staged == 3
    sent = [[each.name for each in request.inputs].count("SHOPPER") for request in service.requests]
    assert sent == [0, *[1] * 6], "the record of what was shown has a hash of it"


def test_servers_with_equal_models_choose_the_same_shoppers() -> None:
    keys = [shopper_key(f"shopper {number}", (), ()) for number in range(2000)]

    def chosen(generation: str, digest: str) -> list[bool]:
        announced = {"generation": generation, "digest": digest, "mode": "split", "share": 0.5, "models": {}}
        found = read_staging({"staging": announced})
        assert found is not None
        return [found.takes(key) for key in keys]

    assert chosen("3", "abc") == chosen("7", "abc")
    assert 900 < sum(chosen("3", "abc")) < 1100
    agree = sum(a == b for a, b in zip(chosen("3", "abc"), chosen("3", "def"), strict=True))
    assert 900 < agree < 1100, "other models get other shoppers"


@pytest.mark.usefixtures("both_clients")
def test_a_trial_that_ends_is_forgotten(service: Service, address: str, shoppers: tuple[str, str]) -> None:
    says(service, status())
    with Client(address) as client:
        client.storefront()
        says(service, STATUS)
        client.storefront(shopper=shoppers[0])
        client.storefront(shopper=shoppers[0])
    assert asked(service) == ["storefront", "storefront__g3", "storefront"]


@pytest.mark.usefixtures("both_clients")
@pytest.mark.parametrize("mode", ["split", "shadow"])
def test_a_client_that_takes_part_in_no_trials(
    service: Service, address: str, shoppers: tuple[str, str], mode: str
) -> None:
    says(service, status(mode=mode))
    with Client(address, options=Options(trials=False)) as client:
        for shopper in (*shoppers, shoppers[0]):
            client.storefront(shopper=shopper)
        assert client.counts.shadows == 0
    assert asked(service) == ["storefront"] * 3


@pytest.mark.usefixtures("both_clients")
def test_live_is_asked_where_a_trial_fails(service: Service, address: str, shoppers: tuple[str, str]) -> None:
    says(service, status())
    service.missing = {"storefront__g3"}
    with Client(address, options=Options(retry=None)) as client:
        client.storefront()
        assert client.storefront(shopper=shoppers[0]).placements
        assert client.storefront(shopper=shoppers[0]).placements
        counts = client.counts
    assert asked(service) == ["storefront", "storefront__g3", "storefront", "storefront"], "and the trial no more"
    assert (counts.errors, counts.retries) == ({}, 0)


@pytest.mark.usefixtures("both_clients")
def test_a_wrong_request_is_wrong_for_both(service: Service, address: str, shoppers: tuple[str, str]) -> None:
    says(service, status())
    with Client(address) as client:
        client.storefront()
        service.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "PRODUCTS: expected an integer of 1 to 100, got 0")]
        with pytest.raises(InvalidArgument):
            client.storefront(products=0, shopper=shoppers[0])
    assert asked(service) == ["storefront", "storefront__g3"]


@pytest.mark.usefixtures("both_clients")
def test_a_shadow_is_asked_as_well(service: Service, address: str, shoppers: tuple[str, str]) -> None:
    says(service, status(mode="shadow"))
    with Client(address) as client:
        client.storefront()
        service.missing = {"storefront__g3"}
        for shopper in shoppers:
            assert client.storefront(shopper=shopper).placements
        client.storefront(shopper=shoppers[1])
        ends = time.monotonic() + 5
        while len(service.requests) < 5 and time.monotonic() < ends:
            client.ready()
        counts = client.counts
    assert sorted(asked(service)) == [*["storefront"] * 4, "storefront__g3"]
    assert (counts.shadows, counts.errors) == (1, {})


@pytest.mark.usefixtures("both_clients")
def test_each_server_has_its_own_trial(service: Service, address: str, shoppers: tuple[str, str]) -> None:
    says(service, status())
    other = Service()
    other.outputs = {**service.outputs, "STATUS": texts([json.dumps(STATUS)])}
    with serving(other) as second, Client([address, second]) as client:
        for _ in range(4):
            client.storefront(shopper=shoppers[0])
    assert asked(service) == ["storefront", "storefront__g3"]
    assert asked(other) == ["storefront", "storefront"]


def test_the_share_is_what_is_asked_for() -> None:
    trial = Staging("7", "split", 0.05, {})
    took = sum(trial.takes(shopper_key(f"shopper {number}", (), ())) for number in range(20_000))
    assert 850 < took < 1150
    other = Staging("8", "split", 0.05, {})
    keys = [shopper_key(f"shopper {number}", (), ()) for number in range(20_000)]
    assert sum(trial.takes(key) and other.takes(key) for key in keys) < 100, "other shoppers each time"


def test_a_shopper_is_known_by_the_oldest_products() -> None:
    history = ["a", "b", "c"]
    assert shopper_key("", history, ()) == shopper_key("", [*history, "d"], ("tea",))
    assert shopper_key("", history, ()) != shopper_key("", ["b", "c"], ())
    assert shopper_key("", (), ("tea",)) != shopper_key("", (), ("coffee",))


@pytest.mark.parametrize(
    "part",
    [None, 3, {}, TRIAL | {"mode": "mirror"}, TRIAL | {"share": 0}, TRIAL | {"share": "much"}, TRIAL | {"models": []}],
)
def test_what_is_not_understood_is_passed_over(part: object) -> None:
    assert read_staging({"staging": part}) is None


def test_a_failed_trial_is_not_believed_again() -> None:
    table = StagingTable(1)
    document = status(share=1.0)
    table.learn(0, document)
    assert table.target(0, "split", "storefront", b"x") == "storefront__g3"
    assert table.target(0, "split", "search", b"x") == ""
    assert table.target(0, "shadow", "storefront", b"x") == ""
    table.forget(0)
    table.learn(0, document)
    assert table.target(0, "split", "storefront", b"x") == ""
    table.learn(0, status(generation="4", share=1.0))
    assert table.target(0, "split", "storefront", b"x") == "storefront__g3"
