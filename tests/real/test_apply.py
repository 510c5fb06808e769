"""Rollouts on the real server under a constant stream of requests; `python -m benchmarks.apply_evidence` does them all.

`--long` runs every edit and every kill here too.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from endcap_client import Client

from benchmarks.apply_evidence import FAST, KILLED_AT, Bench, bench, builds, faulty, good, killed
from benchmarks.apply_sources import FAULTY, GOOD, code, copy_build, other_build, parameter

NAMES = ("misspelt tensor", "absurd weight", "ranker that is no model", "code that fails on every request")
SOME_KILLS = [("switch", "after"), ("watch", "before")]
KILLS = [at if at in SOME_KILLS else pytest.param(at, marks=pytest.mark.long) for at in KILLED_AT]


@pytest.fixture(scope="module")
def whole(pytestconfig: pytest.Config) -> bool:
    """Whether every edit is tried, or a sample of them."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture(scope="module")
def running(build: Path) -> Iterator[Bench]:
    with bench(build, clients=2) as one:
        yield one


@pytest.fixture(autouse=True)
def nothing_failed(running: Bench) -> Iterator[None]:
    yield
    assert running.traffic.failed == []
    assert running.traffic.mixed() == []


def test_faulty_edits_are_stopped(running: Bench, whole: bool) -> None:
    found = faulty(running, [edit for edit in FAULTY if whole or edit.name in NAMES])
    assert [each for each in found["edits"] if not each["stopped"] or each["by"] != each["expected"]] == []
    assert found["answers_unchanged"]
    assert running.loaded() == set(running.state.read(1).models) - {"storefront", "search"}


def test_good_edits_go_live(running: Bench, whole: bool) -> None:
    edits = GOOD if whole else (GOOD[7],)
    before, processes = running.standing.live, running.processes()
    found = good(running, edits)
    assert found.get("rolled_out") == len(edits), found
    assert running.standing.live > before
    live = running.state.read(running.standing.live)
    assert "cross_encoder" not in live.models.values(), "loaded under another name"
    assert running.loaded() == set(live.models.values()) - set(live.public)
    kept = {name: pid for name, pid in running.processes().items() if name in processes}
    assert kept
    assert kept == {name: processes[name] for name in kept}, "what did not change was not loaded again"


def test_nothing_to_do(running: Bench) -> None:
    outcome = running.apply(running.source)
    assert outcome.code == 0
    assert "nothing differs" in outcome.output


def test_a_dry_run_changes_nothing(running: Bench) -> None:
    edited = copy_build(running.source, running.folder / "dry")
    parameter("rerank", "pairs_per_placement", "30")(edited)
    before, loaded = running.state.journal.path.read_bytes(), running.loaded()
    outcome = running.apply(edited, "--dry-run")
    assert outcome.code == 0
    assert "rerank: loads as rerank__g" in outcome.output
    assert (running.state.journal.path.read_bytes(), running.loaded()) == (before, loaded)


def test_rollback_brings_the_pages_back(running: Bench) -> None:
    before = running.answers()
    edited = copy_build(running.source, running.folder / "popular")
    parameter("fusion", "popularity", "5")(edited)
    parameter("fusion", "search_popularity", "5")(edited)
    outcome = running.apply(edited, *FAST, "--set", "min_overlap=0", "--set", "max_drift=1")
    assert outcome.code == 0, outcome.output
    assert running.answers() != before
    outcome = running.run("rollback", *FAST)
    assert outcome.code == 0, outcome.output
    assert running.answers() == before
    assert "rollback to" in running.run("history").output


def test_what_goes_wrong_after_the_switch_is_taken_back(running: Bench) -> None:
    before, live = running.answers(), running.standing.live
    edited = copy_build(running.source, running.folder / "later")
    # Good as long as it is compared, and failing as soon as it is asked as the live one for a while.
    mistake = """

import time

class TritonPythonModel(TritonPythonModel):
    began = time.monotonic()

    def execute(self, requests):
        if time.monotonic() > self.began + 9:
            time.sleep(0.4)
        super().execute(requests)
"""
    code("rerank", mistake)(edited)
    limits = (*FAST, "--set", "watch_s=40", "--set", "watch_latency_ratio=1.5", "--set", "latency_slack_ms=20")
    outcome = running.apply(edited, *limits)
    assert outcome.code == 1
    assert "switched back" in outcome.output
    assert "watch_latency_ratio" in outcome.output
    standing = running.standing
    assert (standing.live, standing.open, standing.runs[standing.newest].outcome) == (live, 0, "rolled back")
    assert running.answers() == before


def test_whole_builds(running: Bench, whole: bool) -> None:
    others = [
        (other_build(running.source, running.folder / "b", "b~"), "b~"),
        (copy_build(running.source, running.folder / "a"), ""),
    ]
    found = builds(running, 5 if whole else 1, others)
    assert found.get("builds"), found
    assert found["mixed"] == []
    assert abs(found["memory_growth"]) < 0.05 or not whole


def test_too_little_memory_is_said_before(running: Bench) -> None:
    edited = copy_build(running.source, running.folder / "large")
    parameter("theme_llm", "max_waiting", "100")(edited)
    outcome = running.apply(edited, "--set", "memory_reserve_mb=100000000")
    assert outcome.code == 1
    assert "--force-memory" in outcome.output
    assert "MB of memory are available" in outcome.output


@pytest.mark.parametrize("at", KILLS, ids=" ".join)
def test_killed(running: Bench, at: tuple[str, str]) -> None:
    number = KILLED_AT.index(at)
    [found] = killed(running, [at], first=number)["kills"]
    kept = ("was_killed", "found_open", "served", "in_order", "live")
    assert all(found[name] for name in kept), found


def test_the_server_comes_back_with_what_was_applied(running: Bench) -> None:
    edited = copy_build(running.source, running.folder / "kept")
    parameter("fusion", "ranker", "0.41")(edited)
    outcome = running.apply(edited, *FAST)
    assert outcome.code == 0, outcome.output
    live, before = running.standing.live, running.answers()
    with running.traffic.paused():
        running.server.stop()
        running.server.start()
        assert running.standing.live == live
        with Client(running.server.grpc_address, timeout_s=10) as client:
            assert client.search("lamp").status.versions["generation"] == str(live)
        assert running.answers() == before


def test_no_server() -> None:
    words = [sys.executable, "-P", "-m", "endcap_client.cli", "apply", "--grpc-port", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no such server runs here" in done.stderr
