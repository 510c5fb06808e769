"""`endcap exposures`: erasure, retention and counts, beside a process that records."""

import argparse
import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from endcap_server.exposures.folder import ExposureFolder
from endcap_server.exposures.journal import SegmentWriter
from endcap_server.exposures.ledger import Ledger
from endcap_server.exposures.record import Exposure, Numbered, ShopperKeys
from endcap_server.exposures.segments import read_exposures
from endcap_server.exposures.sink import ExposureSink
from endcap_server.prepared.stores import FOLDER as PREPARED
from endcap_server.prepared.stores import open_store
from endcap_server.retention import removal
from endcap_server.retention.command import add_exposures_command
from test_exposures import LIMITS, exposure, numbered, recording
from waiting import wait_for

KEYS = ShopperKeys(b"secret")
DAY_S = 86400


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_exposures_command(parser.add_subparsers())
    parsed = parser.parse_args(["exposures", *words])
    return int(parsed.run(parsed))


@pytest.fixture
def build(tmp_path: Path) -> Path:
    (tmp_path / "exposures.key").write_text("secret\n", encoding="utf-8")
    (tmp_path / "exposures").mkdir()
    return tmp_path


@pytest.fixture
def sink(build: Path) -> Iterator[ExposureSink]:
    running = recording(build / "exposures")
    yield running
    running.close()


def recorded(build: Path, *files: list[Numbered]) -> None:
    """What a process has left that wrote these files and ended."""
    ledger = Ledger(build / "exposures", "ended")
    writer = SegmentWriter(ledger, LIMITS)
    for taken in files:
        writer.write(taken)
        writer.close()
    ledger.close()


def of(shopper: bytes, page: str = "page", days: float = 0) -> Exposure:
    made = exposure(page, KEYS.hashed(shopper))
    return Exposure(**{**vars(made), "time_ns": time.time_ns() - int(days * DAY_S * 1e9)})


def shoppers(build: Path) -> list[str]:
    return sorted(set(read_exposures(build / "exposures").column("shopper").to_pylist()))


def test_a_shopper_is_erased_from_files_and_from_what_waits(
    build: Path, sink: ExposureSink, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ExposureFolder(build / "exposures")
    for number in range(25):
        sink.offer(of(b"one" if number % 3 else b"two", str(number)))
    wait_for(folder.segments, "a closed segment")
    before = {path: path.stat().st_mtime_ns for path in folder.segments()}
    for number in range(25, 31):
        sink.offer(of(b"one" if number % 3 else b"two", str(number)))
    assert run("erase", "--build", str(build), "--shopper", "one") == 0
    assert "20 records of 1 shoppers removed from" in capsys.readouterr().out
    assert shoppers(build) == [KEYS.hashed(b"two")]
    assert read_exposures(folder.path).column("page_id").to_pylist() == [str(each) for each in range(0, 31, 3)]
    assert {path: path.stat().st_mtime_ns for path in before} == before, "the age of a file is that of its records"
    sink.offer(of(b"one", "later"))
    wait_for(lambda: len(shoppers(build)) == 2, "the next record")
    assert sink.counts() == {"written": 32, "dropped": 0, "failed": 0, "lost": 0}


def test_the_prepared_page_of_a_shopper_is_erased_too(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("erase", "--build", str(build), "--shopper", "one") == 0
    assert "0 prepared pages removed" in capsys.readouterr().out
    assert not (build / PREPARED).exists(), "no store is made"
    one, two = KEYS.hashed(b"one"), KEYS.hashed(b"two")
    store = open_store(str(build / PREPARED), KEYS.identity, write=True)
    store.put({one: b"1", two: b"2"})
    store.close()
    assert run("erase", "--build", str(build), "--shopper", "one", "--shopper", "three") == 0
    assert f"1 prepared pages removed from {build / PREPARED}" in capsys.readouterr().out
    store = open_store(str(build / PREPARED), KEYS.identity)
    assert list(store.get_all([one, two])) == [None, b"2"]
    store.close()


def test_prepared_pages_of_another_secret_are_left_and_named(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_store(str(build / PREPARED), ShopperKeys(b"another").identity, write=True).close()
    assert run("erase", "--build", str(build), "--shopper", "one") == 1
    assert "prepared pages were not erased" in capsys.readouterr().err


def test_readers_and_a_busy_sink_see_whole_files_while_shoppers_are_erased(build: Path, sink: ExposureSink) -> None:
    stopped, seen = threading.Event(), []

    def offer() -> None:
        number = 0
        while not stopped.wait(0.002):
            sink.offer(of(b"shopper" if number % 2 else b"other", str(number)))
            number += 1

    def read() -> None:
        while not stopped.is_set():
            table = read_exposures(build / "exposures")
            pages = [int(page) for page in table.column("page_id").to_pylist()]
            seen.append(len(pages) == len(set(pages)))

    threads = [threading.Thread(target=work) for work in (offer, read)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            wait_for(lambda: KEYS.hashed(b"shopper") in shoppers(build), "a record of the shopper")
            assert run("erase", "--build", str(build), "--shopper", "shopper") == 0
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    sink.close()
    assert seen
    assert all(seen)
    counts = sink.counts()
    assert counts["written"] == ExposureFolder(build / "exposures").totals()["offered"]
    rows = read_exposures(build / "exposures").to_pylist()
    others = [row["sequence"] for row in rows if row["shopper"] == KEYS.hashed(b"other")]
    assert sorted(others) == list(range(0, counts["written"], 2)), "all records of others are there"


def test_a_file_without_other_rows_goes(build: Path) -> None:
    recorded(build, numbered(*range(4), shopper=KEYS.hashed(b"\xff")))
    assert run("erase", "--build", str(build), "--shopper", os.fsdecode(b"\xff")) == 0
    assert ExposureFolder(build / "exposures").segments() == []


def test_keys_come_from_the_standard_input(
    build: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(build, [(0, of(b"a")), (1, of(b"b")), (2, of(b"c"))])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\n"), encoding="utf-8"))
    assert run("erase", "--build", str(build), "--shopper", "-") == 0
    assert "2 records of 2 shoppers" in capsys.readouterr().out
    assert shoppers(build) == [KEYS.hashed(b"c")]


def test_records_of_an_age_are_removed(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [[(number, of(b"one", str(number), days=number)) for number in each] for each in (range(8), range(8, 10))]
    recorded(build, *files)
    assert run("prune", "--build", str(build), "--older-than", "4.5") == 0
    assert "5 records older than 4.5 days removed from 2 files" in capsys.readouterr().out
    assert read_exposures(build / "exposures").column("sequence").to_pylist() == [0, 1, 2, 3, 4]


def test_counts_are_shown(build: Path, sink: ExposureSink, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(12):
        sink.offer(of(b"one", str(number)))
    wait_for(lambda: sink.counts()["written"] == 12, "12 written")
    assert run("show", "--build", str(build)) == 0
    out = capsys.readouterr().out
    assert "offered: 12\n" in out
    assert "written: 12\n" in out
    assert "waiting: 0\n" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["erase", "--shopper", ""], "expected the key of a shopper, 1 to 128 bytes as in SHOPPER, got 0 bytes"),
        (["erase", "--shopper", "x" * 129], "got 129 bytes"),
        (["erase", "--shopper", "x", "--exposures", "/nowhere"], "/nowhere: expected a folder of exposures"),
        (["show", "--exposures", "/nowhere"], "/nowhere: expected a folder of exposures"),
    ],
)
def test_what_cannot_be_done_is_said(
    words: list[str], message: str, build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "--build", str(build)) == 1
    assert message in capsys.readouterr().err


def test_without_the_secret_nobody_is_erased(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (build / "exposures.key").unlink()
    assert run("erase", "--build", str(build), "--shopper", "x") == 1
    assert "exposures.key: expected the secret that shoppers are hashed with" in capsys.readouterr().err


def test_a_server_that_does_not_close_its_file_is_named(
    build: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(removal, "CLOSE_S", 0.3)
    ledger = Ledger(build / "exposures", "stuck")
    ledger.persist()
    assert run("erase", "--build", str(build), "--shopper", "x") == 1
    assert "process stuck has not closed its file within 0.3 s" in capsys.readouterr().err
    ledger.close()
    assert run("erase", "--build", str(build), "--shopper", "x") == 0


def test_a_journal_that_cannot_be_read_stops_the_erasure(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (build / "exposures/20260101T000000-gone-000000000.jsonl").write_bytes(b"no exposure\n")
    assert run("erase", "--build", str(build), "--shopper", "x") == 1
    assert "gone-000000000.jsonl: cannot be made a segment" in capsys.readouterr().err
