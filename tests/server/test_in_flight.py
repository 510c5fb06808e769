import multiprocessing
from pathlib import Path

from endcap_server.stages.in_flight import SLOTS, InFlight


def test_a_request_is_taken_out_once_it_is_done(tmp_path: Path) -> None:
    table = InFlight(tmp_path)
    first, second = table.enter(1000, 5000), table.enter(2000, 5000)
    assert (first, second) == (1000, 2000)
    assert table.clear(10) == []
    table.leave(2000, 40)
    table.leave(3000, 41)
    assert table.clear(50) == [(40, 2000, True)]
    assert table.clear(6000) == [(5000, 1000, False)], "one that nobody marks done ends by itself"
    assert table.clear(9000) == []


def test_equal_deadlines_are_told_apart(tmp_path: Path) -> None:
    table = InFlight(tmp_path)
    assert [table.enter(1000, 5000) for _ in range(3)] == [1000, 1001, 1002]
    table.leave(1001, 7)
    assert table.clear(8) == [(7, 1001, True)]


def test_a_full_table_says_so(tmp_path: Path) -> None:
    table = InFlight(tmp_path)
    for number in range(SLOTS):
        assert table.enter(10_000 + number, 50_000) is not None
    assert table.enter(1, 50_000) is None
    table.remove(10_500)
    assert table.enter(1, 50_000) == 1


def test_another_process_marks_it_done(tmp_path: Path) -> None:
    table = InFlight(tmp_path)
    table.enter(1000, 5000)
    process = multiprocessing.get_context("spawn").Process(target=_leave, args=(tmp_path, 1000))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert table.clear(50) == [(33, 1000, True)]


def _leave(folder: Path, key: int) -> None:
    InFlight(folder).leave(key, 33)


def test_an_abandoned_request_ends_without_being_done(tmp_path: Path) -> None:
    table = InFlight(tmp_path)
    table.enter(1000, 2**62)
    assert table.clear(2**61) == []
    table.abandon(1000)
    assert [(key, done) for _, key, done in table.clear(2**61)] == [(1000, False)]
