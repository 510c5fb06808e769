"""Reports side by side."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.compare import FORMAT, ReportError, compare, in_blocks, read_report


def report(factor: float, machine: float = 1.0, rate: float = 2.0, seed: int = 1) -> dict[str, Any]:
    """Three rounds of two series; the first is `factor` slower, everything on a machine `machine` times slower."""
    generator = np.random.default_rng(seed)
    noise = [[(machine * generator.normal(100, 4, 20)).tolist() for _ in range(3)] for _ in range(3)]
    return {
        "format": FORMAT,
        "machine": {"processor": "x"},
        "yardstick_ms": [[machine * value / 10 for value in each] for each in noise[2]],
        "series": {
            "storefront": {"unit": "ms", "rounds": [[factor * value for value in each] for each in noise[0]]},
            "traffic, rate 1": {"unit": "ms", "rounds": noise[1], "rate": rate},
        },
    }


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {row["series"]: row["verdict"] for row in found["rows"]}


def test_marks_what_is_outside_the_noise() -> None:
    base = report(1.0)
    within = "within the noise"
    assert verdicts(compare(report(1.0, seed=2), base)) == {"storefront": within, "traffic, rate 1": within}
    assert verdicts(compare(report(1.25, seed=2), base)) == {"storefront": "slower", "traffic, rate 1": within}
    assert verdicts(compare(report(0.8, seed=2), base)) == {"storefront": "faster", "traffic, rate 1": within}


def test_one_round_gives_no_verdict() -> None:
    new = report(3.0, seed=2)
    for series in new["series"].values():
        series["rounds"] = series["rounds"][:1]
    assert set(verdicts(compare(new, report(1.0))).values()) == {"too few rounds"}


def test_a_slower_machine_is_no_slower_program() -> None:
    found = compare(report(1.0, machine=1.5, seed=2), report(1.0))
    assert found["machine_ratio"] > 1.4
    assert set(verdicts(found).values()) <= {"within the noise", "faster"}


def test_rates_are_compared_with_the_same_rate_only() -> None:
    assert list(verdicts(compare(report(1.0, rate=3.0), report(1.0)))) == ["storefront"]


def test_series_without_answers_are_left_out() -> None:
    empty = report(1.0)
    empty["series"]["storefront"]["rounds"] = [[], []]
    assert list(verdicts(compare(report(1.0), empty))) == ["traffic, rate 1"]


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with pytest.raises(ReportError, match=r"report\.json: expected a report\.json, got No such file"):
        read_report(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ReportError, match="expected JSON"):
        read_report(path)
    path.write_text(json.dumps({"format": 0}), encoding="utf-8")
    with pytest.raises(ReportError, match="expected a report of format 1, got 0"):
        read_report(path)
    path.write_text(json.dumps(report(1.0)), encoding="utf-8")
    assert read_report(path) == report(1.0)


def test_blocks() -> None:
    assert in_blocks([1.0, 2.0, 3.0, 4.0, 5.0]) == [[1.0, 2.0, 3.0, 4.0], [5.0]]
