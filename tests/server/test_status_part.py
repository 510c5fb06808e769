"""What a stage says of itself in STATUS."""

import time
from contextvars import copy_context
from typing import Any

import numpy as np
import pytest
from endcap_server.declared.errors import EngineTimeout
from endcap_server.declared.tensors import json_of, json_tensor
from endcap_server.stages.documents import KeywordRows
from endcap_server.stages.status import StatusPart, arrived_ns, carried, finish, part_of
from endcap_server.stages.theme_parameters import ThemeCause, ThemeCheck


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
    part.count(ThemeCheck.TITLE_WORD, 2)
    part.fall_back("two titles refused", ThemeCause.TOO_FEW, whole=False)
    part.fall_back("two titles refused", ThemeCause.TOO_FEW, whole=False)
    part.fall_back_on(EngineTimeout("nearest"), "by words only ({error})", whole=False)
    document = part.document()
    assert (document["source"], document["reason"], document["aiqa"]) == (
        "generated",
        "two titles refused; by words only (nearest: no answer within its share of the budget)",
        {"title_word": 2},
    )
    assert document["causes"] == [
        {"engine": "none", "cause": "too_few"},
        {"engine": "nearest", "cause": "late"},
    ]


def test_a_part_on_its_way_says_when_its_stage_finished_at_last() -> None:
    part = StatusPart(extra={"model": "rerank", "text": "\u00e9\ud800"}).document()
    tensor = carried(part)
    assert part_of(tensor) == part | {"text": "\u00e9?"}
    before = time.monotonic_ns()
    finish(tensor)
    finished = part_of(tensor)
    assert before <= finished.pop("finished_ns") <= time.monotonic_ns()
    assert finished == {name: value for name, value in part_of(carried(part)).items() if name != "finished_ns"}


@pytest.mark.parametrize("finished_ns", [1, 57_579_705_523_000, 2**63 - 1])
def test_any_time_has_its_place(finished_ns: int) -> None:
    assert part_of(carried({"source": "computed", "finished_ns": finished_ns}))["finished_ns"] == finished_ns


def test_a_part_goes_along_with_a_document() -> None:
    rows = KeywordRows.of(np.array([[3, 1, -1], [2, -1, -1]], np.int32))
    tensor = carried({"source": "generated", "finished_ns": 1}, rows.json_text())
    finish(tensor)
    assert KeywordRows.read(tensor) == KeywordRows.read(rows.tensor()) == rows
    assert rows.array.tolist() == [[3, 1, -1], [2, -1, -1]]
    assert part_of(tensor)["source"] == "generated"
    assert part_of(tensor)["finished_ns"] > 1


def test_the_status_that_callers_get_stays_as_it_was_written() -> None:
    tensor = json_tensor({"ms": 1})
    finish(tensor)
    assert json_of(tensor) == {"ms": 1}
