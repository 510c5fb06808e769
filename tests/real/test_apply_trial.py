"""A generation on trial beside the live one on the real server: split, shadow, compare, promote, end."""

import json
from pathlib import Path

import pytest
from endcap_client import Client
from endcap_server.exposures.record import SECRET_FILE, ShopperKeys
from endcap_server.exposures.segments import read_exposures

from benchmarks.apply_bench import FAST, Bench, wait_until
from benchmarks.apply_sources import copy_build, parameter

SHOPPERS = [f"shopper {number}" for number in range(40)]


@pytest.fixture(scope="module")
def edited(rollouts: Bench) -> Path:
    # Of what is live, whatever was rolled out before: the two generations differ in one parameter.
    folder = copy_build(rollouts.state.snapshot(rollouts.standing.live), rollouts.folder / "on trial")
    parameter("fusion", "margin", "0.3")(folder)
    return folder


def generations(client: Client) -> dict[str, str]:
    """Shopper -> generation of the page."""
    return {each: client.search("lamp", shopper=each).status.versions["generation"] for each in SHOPPERS}


def recorded_generations(rollouts: Bench) -> dict[str, int]:
    """Hash of a shopper -> generation of the latest page in the exposures."""
    rows = read_exposures(rollouts.server.exposures).sort_by("time").select(["shopper", "generation"]).to_pylist()
    return {row["shopper"]: row["generation"] for row in rows if row["shopper"]}


def test_a_split(rollouts: Bench, edited: Path) -> None:
    live_before = rollouts.standing.live
    outcome = rollouts.apply(edited, *FAST, "--split", "50%")
    assert outcome.code == 0, outcome.output
    live, staged = rollouts.standing.live, rollouts.standing.staged
    assert (live, rollouts.standing.runs[staged].outcome) == (live_before, "staged")
    with (
        Client(rollouts.server.grpc_address, timeout_s=10) as client,
        Client(rollouts.server.grpc_address, timeout_s=10) as another,
    ):
        wait_until(lambda: "staging" in client.search("lamp").status.document)
        another.search("lamp")
        first = generations(client)
        assert set(first.values()) == {str(live), str(staged)}
        assert 10 <= sum(each == str(staged) for each in first.values()) <= 30
        assert generations(another) == first == generations(client), "a shopper sees one generation"
    wait_until(lambda: {live, staged} <= set(recorded_generations(rollouts).values()))
    keys = ShopperKeys((rollouts.server.options.build / SECRET_FILE).read_bytes().strip())
    recorded = recorded_generations(rollouts)
    assert {each: str(recorded[keys.hashed(each.encode())]) for each in SHOPPERS} == first


def test_both_side_by_side(rollouts: Bench) -> None:
    outcome = rollouts.run("compare", "--json", "--sample", "8")
    assert outcome.code == 0, outcome.output
    found = json.loads(outcome.output)
    assert found["staged"] == rollouts.standing.staged
    assert found["trial"]["mode"] == "split"
    assert found["answered"]["search"]["staged"]["good"] > 0
    assert found["equal_requests"]["requests"] == 8
    assert found["equal_requests"]["overlap"] > 0.7
    assert "on trial" in rollouts.run("compare", "--sample", "4").output


def test_one_trial_at_a_time(rollouts: Bench, edited: Path) -> None:
    outcome = rollouts.apply(edited, *FAST)
    assert outcome.code == 1
    assert "endcap apply --promote" in outcome.output


def test_promote(rollouts: Bench) -> None:
    staged = rollouts.standing.staged
    outcome = rollouts.run("apply", "--promote", *FAST)
    assert outcome.code == 0, outcome.output
    assert (rollouts.standing.live, rollouts.standing.staged) == (staged, 0)
    live = rollouts.state.read(staged)
    assert rollouts.loaded() == set(live.models.values()) - set(live.public)
    with Client(rollouts.server.grpc_address, timeout_s=10) as client:
        wait_until(lambda: "staging" not in client.search("lamp").status.document)
        assert set(generations(client).values()) == {str(staged)}


def test_a_shadow_and_its_end(rollouts: Bench, edited: Path) -> None:
    parameter("fusion", "margin", "0.32")(edited)
    live = rollouts.standing.live
    outcome = rollouts.apply(edited, *FAST, "--shadow", "100%")
    assert outcome.code == 0, outcome.output
    ensemble = f"search__g{rollouts.standing.staged}"
    control = rollouts.server_description.control
    with Client(rollouts.server.grpc_address, timeout_s=10) as client:
        wait_until(lambda: "staging" in client.search("lamp").status.document)
        before = control.answered(ensemble).good
        assert set(generations(client).values()) == {str(live)}, "a shadow shows nothing"
        assert client.counts.shadows >= len(SHOPPERS)
        wait_until(lambda: control.answered(ensemble).good >= before + len(SHOPPERS) // 2)
        assert rollouts.standing.staged not in recorded_generations(rollouts).values(), "no record of what nobody saw"
        assert rollouts.run("rollback").code == 0
        assert set(generations(client).values()) == {str(live)}
    assert (rollouts.standing.live, rollouts.standing.staged) == (live, 0)
    assert all("__g" + str(rollouts.standing.newest) not in name for name in rollouts.loaded())


def test_nobody_has_failed(rollouts: Bench) -> None:
    assert rollouts.traffic.failed == []
    assert rollouts.traffic.mixed() == []


def test_without_a_trial(rollouts: Bench) -> None:
    assert "no generation runs beside the live one" in rollouts.run("compare").output
    assert "no generation runs beside the live one" in rollouts.run("apply", "--promote").output
