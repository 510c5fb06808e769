"""Letting a generation go, when Triton does not get done with a model whose process has died."""

import os
from pathlib import Path

import pytest
from endcap_server.apply import switch
from endcap_server.serving.control import Control
from endcap_server.serving.errors import ApplyError
from endcap_server.serving.generation import Generation, StateFolder


class Stuck(Control):
    """A server that never gets done with unloading some models."""

    def __init__(self, *stuck: str) -> None:
        self.stuck, self.asked = stuck, list[str]()

    def unload(self, *models: str) -> None:
        self.asked += models

    def loaded(self, *models: str) -> list[str]:
        return [model for model in models if model in self.stuck]


def generation(number: int, fusion: str) -> Generation:
    models = {"fusion": fusion, "retrieval": "retrieval", "search": "search"}
    return Generation(number, "build", "cpu", models, dict.fromkeys(models, 1), dict.fromkeys(models, ""), ("search",))


def retire(control: Control, tmp_path: Path) -> list[str]:
    said: list[str] = []
    moved = switch.Switch(StateFolder(tmp_path / "serving"), control, tmp_path, os.getpgid(0))
    moved.retire(generation(2, "fusion__g2"), generation(1, "fusion"), said.append, was_live=False)
    return said


def test_what_is_shared_stays(tmp_path: Path) -> None:
    control = Stuck()
    assert retire(control, tmp_path) == []
    assert control.asked == ["search__g2", "fusion__g2"]


def test_a_dead_model_is_left_to_triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "_DEAD_UNLOAD_S", 0.1)
    [said] = retire(Stuck("fusion__g2"), tmp_path)
    assert "Triton does not finish unloading fusion__g2, whose process has died" in said


def test_one_that_lives_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "_DEAD_UNLOAD_S", 0.05)
    monkeypatch.setattr(switch, "_LONGEST_UNLOAD_S", 0.2)
    monkeypatch.setattr(switch, "model_processes", lambda group: {7: "fusion__g2"})
    with pytest.raises(ApplyError, match="fusion__g2: not unloaded within 0 s; it stays loaded until the next"):
        retire(Stuck("fusion__g2"), tmp_path)


def test_an_ensemble_with_a_request_in_it_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "_DEAD_UNLOAD_S", 0.05)
    monkeypatch.setattr(switch, "_LONGEST_UNLOAD_S", 0.2)
    control = Stuck("search__g2")
    with pytest.raises(ApplyError, match="search__g2: not unloaded"):
        retire(control, tmp_path)
    assert control.asked == ["search__g2"], "its models stay with it"
