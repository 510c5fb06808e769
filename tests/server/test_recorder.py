"""The ring of latest requests."""

import json
from pathlib import Path

import numpy as np
import pytest
from endcap_server.declared.tensors import bytes_tensor
from endcap_server.stages.recorder import LEAST_PAUSE_S, MOST_HISTORY, Recorder, read_recorded


@pytest.fixture
def clock() -> list[float]:
    return [1.0]


def test_keeps_the_latest(tmp_path: Path, clock: list[float]) -> None:
    recorder = Recorder(tmp_path, "in_flight", 3, lambda: clock[0])
    for number in range(5):
        clock[0] += LEAST_PAUSE_S
        recorder.note({"QUERY": bytes_tensor([f"größe {number}"]), "PRODUCTS": np.array([number + 1], np.int32)})
    found = read_recorded(tmp_path, "in_flight")
    assert [each["QUERY"] for each in found] == [["größe 2"], ["größe 3"], ["größe 4"]]
    assert found[-1]["PRODUCTS"] == [5]
    assert read_recorded(tmp_path, "in_flight__g2") == []


def test_at_most_some_a_second(tmp_path: Path, clock: list[float]) -> None:
    recorder = Recorder(tmp_path, "in_flight", 8, lambda: clock[0])
    for _ in range(5):
        recorder.note({"QUERY": bytes_tensor(["lamp"])})
    assert len(read_recorded(tmp_path, "in_flight")) == 1


def test_none(tmp_path: Path) -> None:
    Recorder(tmp_path, "in_flight", 0).note({"QUERY": bytes_tensor(["lamp"])})
    assert list(tmp_path.iterdir()) == []


def test_long_histories_are_cut(tmp_path: Path) -> None:
    Recorder(tmp_path, "in_flight", 2).note({"HISTORY": bytes_tensor([f"p{n}" for n in range(2000)])})
    [found] = read_recorded(tmp_path, "in_flight")
    assert len(found["HISTORY"]) == MOST_HISTORY
    assert found["HISTORY"][-1] == "p1999"


def test_a_full_disk_costs_no_request(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "in_flight", 2)
    (tmp_path / "requests" / "in_flight").rmdir()
    recorder.note({"QUERY": bytes_tensor(["lamp"])})
    assert read_recorded(tmp_path, "in_flight") == []


def test_half_a_file_is_passed_over(tmp_path: Path) -> None:
    Recorder(tmp_path, "in_flight", 2).note({"QUERY": bytes_tensor(["lamp"])})
    folder = tmp_path / "requests" / "in_flight"
    (folder / "0001.json").write_text(json.dumps({"QUERY": ["desk"]})[:-3], encoding="utf-8")
    assert len(read_recorded(tmp_path, "in_flight")) == 1
