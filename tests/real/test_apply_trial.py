"""A generation on trial beside the live one on the real server: split, shadow, compare, promote, end."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from endcap_client import Client

from benchmarks.apply_evidence import FAST, Bench, bench, wait_until
from benchmarks.apply_sources import copy_build, parameter

SHOPPERS = [f"shopper {number}" for number in range(40)]


@pytest.fixture(scope="module")
def running(build: Path) -> Iterator[Bench]:
    with bench(build, clients=1) as one:
        yield one


@pytest.fixture(scope="module")
def edited(running: Bench) -> Path:
    folder = copy_build(running.source, running.folder / "edited")
    parameter("fusion", "margin", "0.3")(folder)
    return folder


def generations(client: Client) -> dict[str, str]:
    """Shopper -> generation of the page."""
    return {each: client.search("lamp", shopper=each).status.versions["generation"] for each in SHOPPERS}


def test_a_split(running: Bench, edited: Path) -> None:
    outcome = running.apply(edited, *FAST, "--split", "50%")
    assert outcome.code == 0, outcome.output
    live, staged = running.standing.live, running.standing.staged
    assert (live, running.standing.runs[staged].outcome) == (1, "staged")
    with (
        Client(running.server.grpc_address, timeout_s=10) as client,
        Client(running.server.grpc_address, timeout_s=10) as another,
    ):
        wait_until(lambda: "staging" in client.search("lamp").status.document)
        another.search("lamp")
        first = generations(client)
        assert set(first.values()) == {str(live), str(staged)}
        assert 10 <= sum(each == str(staged) for each in first.values()) <= 30
        assert generations(another) == first == generations(client), "a shopper sees one generation"


def test_both_side_by_side(running: Bench) -> None:
    outcome = running.run("compare", "--json", "--sample", "8")
    assert outcome.code == 0, outcome.output
    found = json.loads(outcome.output)
    assert found["staged"] == running.standing.staged
    assert found["trial"]["mode"] == "split"
    assert found["answered"]["search"]["staged"]["good"] > 0
    assert found["equal_requests"]["requests"] == 8
    assert found["equal_requests"]["overlap"] > 0.7
    assert "on trial" in running.run("compare", "--sample", "4").output


def test_one_trial_at_a_time(running: Bench, edited: Path) -> None:
    outcome = running.apply(edited, *FAST)
    assert outcome.code == 1
    assert "endcap apply --promote" in outcome.output


def test_promote(running: Bench) -> None:
    staged = running.standing.staged
    outcome = running.run("apply", "--promote", *FAST)
    assert outcome.code == 0, outcome.output
    assert (running.standing.live, running.standing.staged) == (staged, 0)
    live = running.state.read(staged)
    assert running.loaded() == set(live.models.values()) - set(live.public)
    with Client(running.server.grpc_address, timeout_s=10) as client:
        wait_until(lambda: "staging" not in client.search("lamp").status.document)
        assert set(generations(client).values()) == {str(staged)}


def test_a_shadow_and_its_end(running: Bench, edited: Path) -> None:
    parameter("fusion", "margin", "0.32")(edited)
    live = running.standing.live
    outcome = running.apply(edited, *FAST, "--shadow", "100%")
    assert outcome.code == 0, outcome.output
    ensemble = f"search__g{running.standing.staged}"
    control = running.server_description.control
    with Client(running.server.grpc_address, timeout_s=10) as client:
        wait_until(lambda: "staging" in client.search("lamp").status.document)
        before = control.answered(ensemble).good
        assert set(generations(client).values()) == {str(live)}, "a shadow shows nothing"
        assert client.counts.shadows >= len(SHOPPERS)
        wait_until(lambda: control.answered(ensemble).good >= before + len(SHOPPERS) // 2)
        assert running.run("rollback").code == 0
        assert set(generations(client).values()) == {str(live)}
    assert (running.standing.live, running.standing.staged) == (live, 0)
    assert all("__g" + str(running.standing.newest) not in name for name in running.loaded())


def test_nobody_has_failed(running: Bench) -> None:
    assert running.traffic.failed == []
    assert running.traffic.mixed() == []


def test_without_a_trial(running: Bench) -> None:
    assert "no generation runs beside the live one" in running.run("compare").output
    assert "no generation runs beside the live one" in running.run("apply", "--promote").output
