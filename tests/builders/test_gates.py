"""Quality gates: who is compared with what, and what follows."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endcap_builders.gates import Gate, failures, gate_figures, gates_table, read_gates, write_gates
from endcap_builders.relevance.measure import query_accuracy
from endcap_builders.relevance.pairs import make_pairs
from endcap_builders.step import build_context
from endcap_builders.steps.gates import GatesSettings, run
from endcap_server.shop.gates import is_installed
from rich.console import Console

RNG = np.random.default_rng(1)
GOOD, BAD = RNG.normal(0.8, 0.1, 200), RNG.normal(0.3, 0.1, 200)


def decide(tmp_path: Path, mode: str, **gates: list[Gate]) -> dict[str, Any]:
    for name, each in gates.items():
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        write_gates(tmp_path / name, each)
    output = tmp_path / "gates"
    output.mkdir(exist_ok=True)
    context = build_context(tmp_path, tmp_path, output, Console(file=io.StringIO()))
    figures = run(context, GatesSettings.model_validate({"mode": mode}))
    return gate_figures({"steps": {"gates": {"figures": figures}}})


def test_a_gate_of_cases() -> None:
    gate = Gate.of("ranker", "nDCG@10", [0.5, 0.7, np.nan, 0.9], "popularity", [0.4, 0.5, 0.9, np.nan])
    assert (gate.value, gate.baseline_value) == (0.6, 0.45), "on the cases that both have a figure of"
    assert gate.interval[0] <= gate.value <= gate.interval[1]
    assert gate.better
    nothing = Gate.of("ranker", "nDCG@10", [np.nan], "popularity", [0.5])
    assert not nothing.better
    assert not Gate.of("ranker", "nDCG@10", [0.5], "popularity", [0.5]).better


def test_a_gate_survives_its_file(tmp_path: Path) -> None:
    gates = [Gate.of("theme_llm", "concepts", GOOD, "categories", BAD)]
    write_gates(tmp_path, gates)
    assert read_gates(tmp_path) == gates
    assert read_gates(tmp_path / "none") == []


@pytest.mark.parametrize(("mode", "installed"), [("enforce", False), ("warn", True), ("off", True)])
def test_a_model_that_is_not_better_is_not_installed(tmp_path: Path, mode: str, installed: bool) -> None:
    gates = [
        Gate.of("ranker", "order", BAD, "repeats", GOOD - 0.1),
        Gate.of("ranker", "order", BAD, "popularity", GOOD),
    ]
    models = decide(tmp_path, mode, ranker=gates, theme_llm=[Gate.of("theme_llm", "concepts", GOOD, "categories", BAD)])
    assert is_installed(tmp_path, "ranker") is installed
    assert is_installed(tmp_path, "theme_llm")
    if mode == "off":
        assert models == {}
        return
    assert models["ranker"]["serves"] == ("ranker" if installed else "popularity"), "the best of the simple things"
    assert len(failures(models)) == 2
    assert all("ranker" in each for each in failures(models))
    out = io.StringIO()
    Console(file=out, width=200).print(gates_table(models, {}))
    assert ("no: popularity" in out.getvalue()) is not installed
    assert json.dumps(models), "goes into the manifest"


def test_a_simple_thing_that_cannot_serve_is_compared_only(tmp_path: Path) -> None:
    gates = [
        Gate.of("cross_encoder", "order", GOOD, "cosine", BAD),
        Gate.of("cross_encoder", "order", GOOD, "oracle", GOOD + 0.1, serves=False),
    ]
    models = decide(tmp_path, "enforce", cross_encoder=gates)
    assert models["cross_encoder"]["installed"]
    assert len(failures(models)) == 1, "but --strict says so"


def test_the_teacher_is_compared_and_does_not_serve(tmp_path: Path) -> None:
    models = decide(tmp_path, "enforce", teacher=[Gate.of("teacher", "order", BAD, "BM25", GOOD)])
    assert failures(models)
    assert json.loads((tmp_path / "gates/gates.json").read_text(encoding="utf-8")) == {}


def test_accuracy_of_each_query() -> None:
    pairs = make_pairs(["a", "a", "a", "b", "b"], np.arange(5), np.array([1.0, 0.5, 0.0, 1.0, 1.0]))
    assert query_accuracy(np.array([3.0, 2.0, 1.0, 0.0, 0.0]), pairs)[0] == 1
    assert query_accuracy(np.array([1.0, 1.0, 1.0, 0.0, 0.0]), pairs)[0] == 0.5
    assert query_accuracy(np.array([1.0, 2.0, 3.0, 0.0, 0.0]), pairs)[0] == 0
    assert np.isnan(query_accuracy(np.zeros(5), pairs)[1])
