"""Compares a report with an earlier one: which figures changed by more than the noise."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measures import rounds_ratio

FORMAT = 1
_BLOCK = 4
_LEAST_ROUNDS = 2
"""With one round, the variation between rounds is unknown."""


class ReportError(ValueError):
    """The file is not a report, or its format differs from this program's."""


def read_report(path: Path) -> dict[str, Any]:
    """Read report.json of an earlier run.

    Raises:
        ReportError: There is none, or it is of another format.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"{path}: expected a report.json, got {error.strerror}; name one with BASE=") from error
    except ValueError as error:
        raise ReportError(f"{path}: expected JSON, got {error}") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        found = report.get("format") if isinstance(report, dict) else type(report).__name__
        raise ReportError(f"{path}: expected a report of format {FORMAT}, got {found}; measure the base again")
    return report


def compare(new: Mapping[str, Any], base: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """Ratio of the medians (new / base) of every series that both reports have, with its interval.

    The machine may have differed in speed between the runs. Ratios are therefore divided by the ratio of the times of a
    fixed piece of work ("yardstick"), which both runs measured between their rounds. A series is marked where the
    interval excludes 1.
    """
    machine = 1.0
    if new.get("yardstick_ms") and base.get("yardstick_ms"):
        machine = rounds_ratio(new["yardstick_ms"], base["yardstick_ms"], seed).value
    rows = []
    for name, series in new.get("series", {}).items():
        other = base.get("series", {}).get(name)
        if other is None or other.get("rate") != series.get("rate"):
            continue  # an open-loop rate is comparable only with the same rate
        if not any(series["rounds"]) or not any(other["rounds"]):
            continue
        ratio = rounds_ratio(series["rounds"], other["rounds"], seed)
        low, high = ratio.low / machine, ratio.high / machine
        if min(len(series["rounds"]), len(other["rounds"])) < _LEAST_ROUNDS:
            verdict = "too few rounds"
        else:
            verdict = "faster" if high < 1 else "slower" if low > 1 else "within the noise"
        rows.append({
            "series": name,
            "ratio": round(ratio.value / machine, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "verdict": verdict,
        })  # fmt: skip
    same = new.get("machine", {}).get("processor") == base.get("machine", {}).get("processor")
    return {
        "base": {name: base.get(name) for name in ("created", "revision", "command")},
        "same_processor": same,
        "busy_elsewhere_cores": {"new": new.get("busy_elsewhere_cores"), "base": base.get("busy_elsewhere_cores")},
        "machine_ratio": round(machine, 4),
        "rows": rows,
    }


def in_blocks(values: list[float]) -> list[list[float]]:
    """Group consecutive values into rounds, for series that were not measured in rounds."""
    return [values[start : start + _BLOCK] for start in range(0, len(values), _BLOCK)]
