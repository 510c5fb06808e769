"""Faults of where exposures are written, by the benchmark's own parts, which hand pages to the sink of a process."""

import os

import pytest

from benchmarks.exposures import FAULTS, problems, prove_sink

ROOT = {"full", "frozen"}
"""Faults that mount a file system."""


@pytest.mark.parametrize("part", FAULTS)
def test_each_page_is_accounted_for_and_what_is_written_is_whole(part: str) -> None:
    if part in ROOT and os.geteuid():
        pytest.skip("needs root, to mount a file system")
    if part.startswith("kafka"):
        pytest.importorskip("confluent_kafka", reason="needs confluent-kafka: pip install 'endcap[kafka]'")
    figures = prove_sink(part, 500, 400, lambda **_: None)
    assert problems(figures) == [], figures
    counts = figures["counts"]
    fault = {"full": "failed", "frozen": "dropped", "kafka_dies": "failed"}
    assert part not in fault or counts[fault[part]], counts
