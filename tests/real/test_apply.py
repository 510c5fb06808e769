"""Rollouts on the real server under a constant stream of requests; `python -m benchmarks.apply_evidence` does them all.

`--long` runs every edit and every kill here too.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import small_bench
from endcap_client import Client

from benchmarks.apply_bench import FAST, Bench
from benchmarks.apply_evidence import KILLED_AT, builds, faulty, good, killed
from benchmarks.apply_sources import FAULTY, GOOD, code, copy_build, other_build, parameter

NAMES = ("misspelt tensor", "absurd weight", "ranker that is no model", "code that fails on every request")
SOME_KILL = ("switch", "after")
KILLS = [at if at == SOME_KILL else pytest.param(at, marks=pytest.mark.long) for at in KILLED_AT]


@pytest.fixture(scope="module")
def rollouts(build: Path) -> Iterator[Bench]:
    """A server of its own, whose source is edited too."""
    with small_bench(build) as running:
        yield running


@pytest.fixture(scope="module")
def whole(pytestconfig: pytest.Config) -> bool:
    """Whether every edit is tried, or a sample of them."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture(autouse=True)
def nothing_failed(rollouts: Bench) -> Iterator[None]:
    yield
    assert rollouts.traffic.failed == []
    assert rollouts.traffic.mixed() == []


def test_faulty_edits_are_stopped(rollouts: Bench, whole: bool) -> None:
    found = faulty(rollouts, [edit for edit in FAULTY if whole or edit.name in NAMES])
    assert [each for each in found["edits"] if not each["stopped"] or each["by"] != each["expected"]] == []
    assert found["answers_unchanged"]
    assert rollouts.loaded() == set(rollouts.state.read(1).models) - {"storefront", "search"}


def test_good_edits_go_live(rollouts: Bench, whole: bool) -> None:
    edits = GOOD if whole else (GOOD[7],)
    before, processes = rollouts.standing.live, rollouts.processes()
    found = good(rollouts, edits)
    assert found.get("rolled_out") == len(edits), found
    assert rollouts.standing.live > before
    live = rollouts.state.read(rollouts.standing.live)
    assert "cross_encoder" not in live.models.values(), "loaded under another name"
    assert rollouts.loaded() == set(live.models.values()) - set(live.public)
    kept = {name: pid for name, pid in rollouts.processes().items() if name in processes}
    assert kept
    assert kept == {name: processes[name] for name in kept}, "what did not change was not loaded again"


def test_the_server_comes_back_with_what_was_applied(rollouts: Bench) -> None:
    live, before = rollouts.standing.live, rollouts.answers()
    assert live > 1, "the test before this one rolls something out"
    with rollouts.traffic.paused():
        rollouts.server.stop()
        rollouts.server.start()
        assert rollouts.standing.live == live
        with Client(rollouts.server.grpc_address, timeout_s=10) as client:
            assert client.search("lamp").status.versions["generation"] == str(live)
        assert rollouts.answers() == before


def test_nothing_to_do(rollouts: Bench) -> None:
    outcome = rollouts.apply(rollouts.source)
    assert outcome.code == 0
    assert "nothing differs" in outcome.output


def test_a_dry_run_changes_nothing(rollouts: Bench) -> None:
    edited = copy_build(rollouts.source, rollouts.folder / "dry")
    parameter("rerank", "pairs_per_placement", "30")(edited)
    before, loaded = rollouts.state.journal.path.read_bytes(), rollouts.loaded()
    outcome = rollouts.apply(edited, "--dry-run")
    assert outcome.code == 0
    assert "rerank: loads as rerank__g" in outcome.output
    assert (rollouts.state.journal.path.read_bytes(), rollouts.loaded()) == (before, loaded)


def test_rollback_brings_the_pages_back(rollouts: Bench) -> None:
    before = rollouts.answers()
    edited = copy_build(rollouts.source, rollouts.folder / "popular")
    parameter("fusion", "popularity", "5")(edited)
    parameter("fusion", "search_popularity", "5")(edited)
    outcome = rollouts.apply(edited, *FAST, "--set", "min_overlap=0", "--set", "max_drift=1")
    assert outcome.code == 0, outcome.output
    assert rollouts.answers() != before
    outcome = rollouts.run("rollback", *FAST)
    assert outcome.code == 0, outcome.output
    assert rollouts.answers() == before
    assert "rollback to" in rollouts.run("history").output


def test_what_goes_wrong_after_the_switch_is_taken_back(rollouts: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    # Latencies are compared once there are enough answers before the switch and after it.
    monkeypatch.setattr(rollouts.traffic, "pause_s", 0.05)
    before, live = rollouts.answers(), rollouts.standing.live
    edited = copy_build(rollouts.source, rollouts.folder / "later")
    journal = rollouts.state.journal.path
    # Good while it is compared, and slow once it is watched.
    mistake = f"""

import time
from pathlib import Path

def watched():
    return Path({str(journal)!r}).read_text(encoding="utf-8").count('"step": "watch"')

class TritonPythonModel(TritonPythonModel):
    watched_before = watched()

    def execute(self, requests):
        if watched() > self.watched_before:
            time.sleep(0.4)
        super().execute(requests)
"""
    code("rerank", mistake)(edited)
    limits = (*FAST, "--set", "watch_s=40", "--set", "watch_latency_ratio=1.5", "--set", "latency_slack_ms=20")
    outcome = rollouts.apply(edited, *limits)
    assert outcome.code == 1
    assert "switched back" in outcome.output
    assert "watch_latency_ratio" in outcome.output
    standing = rollouts.standing
    assert (standing.live, standing.open, standing.runs[standing.newest].outcome) == (live, 0, "rolled back")
    assert rollouts.answers() == before


def test_whole_builds(rollouts: Bench, whole: bool) -> None:
    others = [
        (other_build(rollouts.source, rollouts.folder / "b", "b~"), "b~"),
        (copy_build(rollouts.source, rollouts.folder / "a"), ""),
    ]
    found = builds(rollouts, 5 if whole else 1, others)
    assert found.get("builds"), found
    assert found["mixed"] == []
    assert abs(found["memory_growth"]) < 0.05 or not whole


def test_too_little_memory_is_said_before(rollouts: Bench) -> None:
    edited = copy_build(rollouts.source, rollouts.folder / "large")
    parameter("theme_llm", "max_waiting", "100")(edited)
    outcome = rollouts.apply(edited, "--set", "memory_reserve_mb=100000000")
    assert outcome.code == 1
    assert "--force-memory" in outcome.output
    assert "MB of memory are available" in outcome.output


@pytest.mark.parametrize("at", KILLS, ids=" ".join)
def test_killed(rollouts: Bench, at: tuple[str, str]) -> None:
    number = KILLED_AT.index(at)
    [found] = killed(rollouts, [at], first=number)["kills"]
    kept = ("was_killed", "found_open", "served", "in_order", "live")
    assert all(found[name] for name in kept), found


def test_no_server() -> None:
    words = [sys.executable, "-P", "-m", "endcap_client.cli", "apply", "--grpc-port", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no such server runs here" in done.stderr
