"""Prediction-powered estimates, and the terminal tool that makes the labels for them."""

import io
import json
import os
import pty
import sys
from pathlib import Path

import numpy as np
import pytest
from endcap_builders.evaluation.queries import EvaluationError
from endcap_builders.quality.labelling import Label, Question, ask_labels, read_labels
from endcap_builders.quality.prediction_powered import Judged
from rich.console import Console

QUESTIONS = [Question(f"Theme {n // 5}", f"p{n}", f"Product {n} [red]") for n in range(20)]


def judged(seed: int, *, bias: float, labelled: int = 100) -> tuple[Judged, float]:
    """1000 cases in groups of five, a judge that agrees mostly but is off by `bias`, and the true mean."""
    rng = np.random.default_rng(seed)
    good = np.repeat(rng.random(200) < 0.7, 5)
    label = np.where(rng.random(1000) < 0.9, good, ~good).astype(float)
    judge = np.clip(0.8 * label + 0.1 + bias + 0.05 * rng.normal(size=1000), 0, 1)
    known = np.full(1000, np.nan)
    chosen = rng.choice(1000, labelled, replace=False)
    known[chosen] = label[chosen]
    return Judged(judge, known, np.repeat(np.arange(200), 5)), float(label.mean())


def test_the_estimate_of_both_is_right_though_the_judge_is_not() -> None:
    covered = {"judge": 0, "people": 0, "both": 0}
    widths = {"people": 0.0, "both": 0.0}
    for seed in range(40):
        cases, truth = judged(seed, bias=-0.15)
        found = cases.estimates()
        for name in covered:
            covered[name] += found[name]["low"] <= truth <= found[name]["high"]
        for name in widths:
            widths[name] += found[name]["high"] - found[name]["low"]
    assert covered["judge"] == 0, "the judge alone is certain, and wrong"
    assert covered["both"] >= 34
    assert covered["people"] >= 34
    assert widths["both"] < 0.85 * widths["people"]


def test_a_judge_that_knows_nothing_does_no_harm() -> None:
    cases, truth = judged(1, bias=0.0)
    noise = Judged(np.random.default_rng(0).random(1000), cases.label, cases.group).estimates()
    assert noise["weight"] < 0.4
    assert noise["both"]["value"] == pytest.approx(noise["people"]["value"], abs=0.05)
    assert noise["both"]["low"] <= truth <= noise["both"]["high"]
    constant = Judged(np.full(1000, 0.3), cases.label, cases.group).estimates()
    assert constant["weight"] == 0
    assert constant["both"] == constant["people"]


def test_without_labels_there_is_the_judge_alone() -> None:
    found = Judged(np.array([0.0, 1.0, 1.0]), np.full(3, np.nan), np.array([0, 0, 1])).estimates()
    assert found["judge"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert set(found) == {"cases", "labelled", "judge"}
    nothing = Judged(np.empty(0), np.empty(0), np.empty(0, int)).estimates()
    assert nothing == {"cases": 0, "labelled": 0}


def ask(path: Path, keys: str, count: int = 20) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=200, highlight=False)
    return ask_labels(QUESTIONS, path, count, console=console, keys=keys), console.file.getvalue()


def test_one_key_a_label_with_undo_and_resumption(tmp_path: Path) -> None:
    path = tmp_path / "labels/mine.jsonl"
    made, shown = ask(path, "ynxsuuyq")
    assert made == 2, "yes, then no is taken back: after 's' one undo takes that, the next one the no"
    assert "Product" in shown
    assert "[red]" in shown, "markup in a title is shown as it is"
    first = read_labels(path)
    made, shown = ask(path, "nn", count=4)
    assert made == 4
    assert "3 of 4" in shown
    again = read_labels(path)
    assert first.items() <= again.items()
    assert sorted(again.values()) == [0.0, 0.0, 1.0, 1.0]
    assert ask(path, "", count=4) == (4, ask(path, "", count=4)[1]), "enough are there"
    assert ask(path, "y" * 30)[0] == 20, "no product is asked for twice"


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"theme": "Soup", "product_id": "p1", "fits": 1}\n{"theme": "Soup"}\n', encoding="utf-8")
    with pytest.raises(EvaluationError, match=r"labels.jsonl, line 2: expected a label"):
        read_labels(path)
    path.write_text('{"theme": "Soup", "product_id": "p1", "fits": 3}\n', encoding="utf-8")
    with pytest.raises(EvaluationError, match="line 1"):
        read_labels(path)
    with pytest.raises(EvaluationError, match=r"got none; run --part pages first"):
        ask_labels([], path, 3)
    with pytest.raises(EvaluationError, match=r"none.jsonl: expected a file of labels"):
        read_labels(tmp_path / "none.jsonl")


def test_a_person_at_a_terminal(tmp_path: Path) -> None:
    """Keys come one by one, without a line end, and the terminal is left as it was."""
    path = tmp_path / "labels.jsonl"
    code = (
        "import sys; from pathlib import Path\n"
        "from endcap_builders.quality.labelling import Question, ask_labels\n"
        "asked = [Question('Soup', f'p{n}', 'Broth') for n in range(5)]\n"
        "print('made', ask_labels(asked, Path(sys.argv[1]), 3))\n"
    )
    process, terminal = pty.fork()
    if not process:
        os.execve(sys.executable, [sys.executable, "-c", code, str(path)], dict(os.environ))
    said = b""
    while b"1 of 3" not in said:
        said += os.read(terminal, 1000)
    os.write(terminal, b"yunyy")
    while b"made 3" not in said:
        said += os.read(terminal, 1000)
    os.waitpid(process, 0)
    labels = [Label(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [label.fits for label in labels] == [0.0, 1.0, 1.0], "the first one was taken back"
    assert len({label.product_id for label in labels}) == 3
