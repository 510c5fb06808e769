"""What a stage says of itself in STATUS."""

import time
from contextvars import copy_context
from typing import Any

import pytest
from endcap_server.stages.base import StatusPart, arrived_ns


def test_time_counts_from_arrival_in_the_process() -> None:
    arrived = time.monotonic_ns() - 50_000_000

    def served() -> dict[str, Any]:
        arrived_ns.set(arrived)
        return StatusPart().document()

    part = copy_context().run(served)
    assert part["started_ns"] == arrived
    assert part["ms"] == pytest.approx((part["finished_ns"] - arrived) / 1e6, abs=0.001)


def test_time_counts_from_the_first_look_outside_a_server() -> None:
    before = time.monotonic_ns()
    part = StatusPart().document()
    assert before <= int(part["started_ns"]) <= int(part["finished_ns"]) <= time.monotonic_ns()


def test_a_part_that_fell_back_keeps_its_source() -> None:
    part = StatusPart("generated")
    part.count("title_policy", 2)
    part.fall_back("two titles refused", whole=False)
    part.fall_back("two titles refused", whole=False)
    document = part.document()
    assert (document["source"], document["reason"], document["aiqa"]) == (
        "generated",
        "two titles refused",
        {"title_policy": 2},
    )
