"""The history of generations: what it says about where a server stands, whatever ended a rollout."""

from pathlib import Path

import pytest
from endcap_server.serving.journal import Journal, Standing


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "serving" / "history.jsonl")
    journal.write("served", 1, source="build/a")
    return journal


def rollout(
    journal: Journal, number: int, *steps: str, outcome: str = "", kind: str = "apply", to: int = 0
) -> Standing:
    journal.write("began", number, kind=kind, source=f"source-{number}", changed=["fusion"], to=to)
    for step in steps:
        journal.step(number, step)
    if outcome:
        journal.write("ended", number, outcome=outcome)
    return journal.standing()


ALL = ("load", "compare", "switch", "watch", "unload")


def test_nothing_yet(tmp_path: Path) -> None:
    assert Journal(tmp_path / "none").standing() == Standing()


def test_a_rollout_that_went_well(journal: Journal) -> None:
    standing = rollout(journal, 2, *ALL, outcome="live")
    assert (standing.live, standing.newest, standing.open, standing.previous) == (2, 2, 0, 1)
    assert standing.runs[2].changed == ("fusion",)
    assert standing.runs[2].outcome == "live"


@pytest.mark.parametrize(
    ("steps", "live"),
    [((), 1), (("load",), 1), (ALL[:2], 1), (ALL[:3], 1), (ALL[:4], 2), (ALL, 2), ((*ALL[:4], "back"), 1)],
)
def test_interrupted_after_a_step(journal: Journal, steps: tuple[str, ...], live: int) -> None:
    standing = rollout(journal, 2, *steps)
    assert (standing.live, standing.open) == (live, 2)
    assert standing.runs[2].is_switched == (live == 2)
    assert standing.runs[2].outcome == ""


@pytest.mark.parametrize(
    ("steps", "answering"),
    [((), {1}), (ALL[:2], {1}), (ALL[:3], {1, 2}), (ALL[:4], {1, 2}), (ALL, {2}), ((*ALL[:4], "back"), {1})],
)
def test_whom_requests_reach(journal: Journal, steps: tuple[str, ...], answering: set[int]) -> None:
    assert rollout(journal, 2, *steps).answering == answering


def test_whom_requests_reach_on_trial(journal: Journal) -> None:
    assert rollout(journal, 2, *ALL[:2], outcome="staged").answering == {1, 2}
    journal.write("ended", 2, outcome="dropped")
    assert journal.standing().answering == {1}


def test_a_server_that_starts_again_ends_what_ran(journal: Journal) -> None:
    rollout(journal, 2, *ALL[:2])
    journal.write("served", 1)
    standing = journal.standing()
    assert (standing.live, standing.open, standing.runs[2].outcome) == (1, 0, "interrupted")
    rollout(journal, 3, *ALL[:4])
    journal.write("served", 3)
    standing = journal.standing()
    assert (standing.live, standing.open, standing.runs[3].outcome, standing.previous) == (3, 0, "live", 1)


def test_what_came_before(journal: Journal) -> None:
    rollout(journal, 2, *ALL, outcome="live")
    rollout(journal, 3, *ALL, outcome="live")
    assert journal.standing().previous == 2
    assert rollout(journal, 4, *ALL, outcome="live", kind="rollback", to=2).previous == 1
    assert rollout(journal, 5, outcome="refused").previous == 1
    assert rollout(journal, 6, *ALL, outcome="live").previous == 4


def test_staged(journal: Journal) -> None:
    assert rollout(journal, 2, *ALL[:2], outcome="staged").staged == 2
    journal.step(2, "switch")
    assert (journal.standing().staged, journal.standing().open) == (0, 2)
    journal.step(2, "watch")
    journal.step(2, "unload")
    journal.write("ended", 2, outcome="live")
    assert (journal.standing().live, journal.standing().open) == (2, 0)
    rollout(journal, 3, *ALL[:2], outcome="staged")
    journal.write("served", 2)
    assert (journal.standing().staged, journal.standing().runs[3].outcome) == (0, "interrupted")


def test_a_line_that_was_cut_short_is_passed_over(journal: Journal) -> None:
    rollout(journal, 2, *ALL, outcome="live")
    with journal.path.open("a", encoding="utf-8") as file:
        file.write('{"time": "2026-11-21T08:00:00Z", "event": "beg')
    assert journal.standing().live == 2
    assert rollout(journal, 3, *ALL, outcome="live").live == 3
    assert [event["generation"] for event in journal.events()][-1] == 3


def test_nothing_of_it_is_readable_by_others(journal: Journal) -> None:
    assert journal.path.stat().st_mode & 0o077 == 0
