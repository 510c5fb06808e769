"""Exposures of the real server under faults: every page is answered, each record is whole, each loss is counted."""

import os
from pathlib import Path

import pytest

from benchmarks.exposures import FAULTS, problems, prove

ROOT = {"full", "frozen"}
"""Faults that mount a file system."""
DEFAULT = {"killed"}


def cases() -> list[object]:
    return [part if part in DEFAULT else pytest.param(part, marks=pytest.mark.long) for part in FAULTS]


@pytest.mark.parametrize("part", cases())
def test_a_fault_of_the_sink_costs_no_page_and_is_counted(part: str, build: Path) -> None:
    if part in ROOT and os.geteuid():
        pytest.skip("needs root, to mount a file system")
    if part.startswith("kafka"):
        pytest.importorskip("confluent_kafka")
    figures = prove(build, part, 160, 2, lambda: None)
    assert problems(figures) == [], figures
