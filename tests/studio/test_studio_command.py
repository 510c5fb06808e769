"""`endcap studio` on the command line, reports, and jobs."""

import json
import threading
from pathlib import Path

import pytest
from endcap_client import cli
from endcap_studio.app import EXPECTED
from endcap_studio.command import add_studio_command
from endcap_studio.errors import StudioError
from endcap_studio.jobs import Job, Jobs
from endcap_studio.reports import read_reports
from waiting import wait_for


class _Entry:
    name, module = "studio", "endcap_studio.command"

    @staticmethod
    def load():
        return add_studio_command


@pytest.mark.parametrize("address", ["8010", "127.0.0.1", "127.0.0.1:99999", "http://127.0.0.1:8010", "a b:80"])
def test_wrong_addresses(address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda group: [_Entry])
    with pytest.raises(SystemExit) as stopped:
        cli.main(["studio", "--build", "x", "--address", address])
    assert stopped.value.code == 2
    assert "expected HOST:PORT" in capsys.readouterr().err


def test_a_build_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda group: [_Entry])
    assert cli.main(["studio", "--build", str(tmp_path / "none")]) == 1
    assert "build one with `endcap build" in capsys.readouterr().err


def test_reports_of_both_kinds_and_what_is_none(tmp_path: Path) -> None:
    pages = {"systems": {"page": {"all": {"value": 0.25, "low": 0.1, "high": 0.4}, "new": {"value": 0.2}, "gini": 0.8}}}
    searches = {"systems": {"teacher": {"figures": {"ndcg": {"value": 0.9}}}, "random": {"figures": {}}}}
    written = {"pages/report.json": pages, "searches/built.json": searches, "broken/report.json": {"systems": 3}}
    for number, (name, document) in enumerate(written.items()):
        path = tmp_path / "evaluation" / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"created": f"2026-11-0{number + 1}", **document}), encoding="utf-8")
    (tmp_path / "evaluation" / "empty").mkdir()
    found = read_reports(tmp_path)
    assert [(report.name, report.figures) for report in found] == [
        ("searches", ("nDCG",)),
        ("pages", ("purchases found", "new purchases found")),
    ]
    assert found[0].rows == (("teacher", ("0.900",)), ("random", ("",)))
    assert found[1].rows == (("page", ("0.250 [0.100, 0.400]", "0.200")),)
    assert read_reports(tmp_path / "other") == []


def test_jobs_end_are_cancelled_or_say_why_they_failed() -> None:
    jobs, go_on = Jobs(EXPECTED), threading.Event()

    def counts(job: Job) -> int:
        job.report("begins")
        while True:
            go_on.wait(0.01)
            job.step()

    def fails(job: Job) -> None:
        raise StudioError("a sentence")

    running = jobs.start("preview", counts, 5)
    wait_for(lambda: running.done > 2, "it runs")
    running.cancel()
    wait_for(lambda: running.state == "cancelled", "it is cancelled")
    assert running.lines == ["begins"]
    failed, crashed, done = (
        jobs.start("x", work) for work in (fails, lambda job: 1 / 0, lambda job: job.report("done") or 7)
    )
    wait_for(lambda: "running" not in {failed.state, crashed.state, done.state}, "they end")
    assert (failed.state, failed.error) == ("failed", "a sentence")
    assert crashed.error == "ZeroDivisionError: division by zero"
    assert (done.state, done.result) == ("done", 7)
    assert jobs.get(done.number) is done
    with pytest.raises(StudioError, match="no longer known"):
        jobs.get("other")


def test_one_rollout_at_a_time_that_nobody_can_stop_halfway() -> None:
    jobs, end = Jobs(EXPECTED), threading.Event()

    def waits(job: Job) -> None:
        end.wait(60)
        job.step()

    first = jobs.start("rollout", waits, can_stop=False)
    first.cancel()
    with pytest.raises(StudioError, match="another rollout is under way"):
        jobs.start("rollout", waits, can_stop=False)
    end.set()
    wait_for(lambda: first.state == "done", "it ends whole")
    jobs.start("rollout", waits, can_stop=False)
