import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from endcap_server.declared.errors import InvalidRequest
from endcap_server.exposures import journal
from endcap_server.exposures.folder import ExposureFolder
from endcap_server.exposures.journal import SegmentLimits, SegmentWriter
from endcap_server.exposures.ledger import Ledger, forget, shared
from endcap_server.exposures.log import LOG, AtMostOnce
from endcap_server.exposures.record import SECRET_VARIABLE, Exposure, Numbered, ShopperKeys
from endcap_server.exposures.segments import read_exposures
from endcap_server.exposures.sink import ExposureSink
from endcap_server.stages.contract import read_request
from waiting import wait_for

LIMITS = SegmentLimits(rows=10, seconds=3600, bytes=1 << 30, days=90)


@pytest.fixture(autouse=True)
def _nothing_is_left_in_shared_memory(tmp_path: Path) -> Iterator[None]:
    yield
    for ledger in tmp_path.rglob("*.ledger"):
        forget(ledger)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the log, from a new beginning."""
    now = [0.0]
    monkeypatch.setattr(LOG, "filters", [AtMostOnce(60, lambda: now[0])])
    return now


def exposure(page_id: str, shopper: str = "") -> Exposure:
    return Exposure(
        page_id=page_id,
        ensemble="storefront",
        shopper=shopper,
        time_ns=1_764_370_800_123_456_789,
        generation=3,
        query="",
        history=2,
        unknown_ids=1,
        placements=[{"source": "generated", "keywords": "ranked"}, {"source": "classic:popular"}],
        titles=["Tea \n time", "Popular now", ""],
        keywords=["tea", "", "", "", "", ""],
        products=["a", "b", "c", "", "", ""],
        score=np.array([[0.5, 0.25], [1, 0], [0, 0]], np.float32),
    )


def numbered(*numbers: int, shopper: str = "") -> list[Numbered]:
    return [(number, exposure(str(number), shopper)) for number in numbers]


def writing(folder: Path, process: str, limits: SegmentLimits = LIMITS) -> SegmentWriter:
    return SegmentWriter(Ledger(folder, process), limits)


def recording(folder: Path, process: str = "p", waiting: int = 1000) -> ExposureSink:
    ledger = Ledger(folder, process)
    return ExposureSink(SegmentWriter(ledger, LIMITS), ledger, waiting)


class Held:
    """A writer that waits until it may write, and then fails if it is told to."""

    def __init__(self, folder: Path) -> None:
        self.may_write, self.fails, self.tick_fails = threading.Event(), False, False
        self.taken: list[Numbered] = []
        self.ledger = Ledger(folder, "held")

    def write(self, taken: Sequence[Numbered]) -> None:
        self.may_write.wait()
        if self.fails:
            raise OSError("no space")
        self.taken += taken
        self.ledger.add("written", len(taken))

    def tick(self) -> None:
        if self.fails or self.tick_fails:
            raise OSError("no space")

    def close(self) -> bool:
        self.tick()
        return True

    def stop(self) -> None:
        pass


def test_a_page_is_read_as_it_was_shown(tmp_path: Path) -> None:
    sink = recording(tmp_path)
    for number in range(25):
        sink.offer(exposure(str(number), "ab"))
    sink.close()
    assert sink.counts() == {"written": 25, "dropped": 0, "failed": 0, "lost": 0}
    assert not list(tmp_path.glob("*.jsonl")) + list(tmp_path.glob("*.new"))
    rows = read_exposures(tmp_path).to_pylist()
    assert [row["sequence"] for row in rows] == list(range(25))
    first = rows[0]
    assert first["time"].isoformat() == "2025-11-28T23:00:00.123456+00:00"
    assert (first["page_id"], first["shopper"], first["generation"], first["process"]) == ("0", "ab", 3, "p")
    assert (first["history"], first["unknown_ids"]) == (2, 1)
    assert first["placements"] == [
        {
            "title": "Tea \n time",
            "source": "generated",
            "keywords": ["tea"],
            "products": ["a", "b"],
            "scores": [0.5, 0.25],
        },
        {"title": "Popular now", "source": "classic:popular", "keywords": [], "products": ["c"], "scores": [1.0]},
    ]


def test_a_slow_sink_drops_and_counts(tmp_path: Path) -> None:
    writer = Held(tmp_path)
    sink = ExposureSink(writer, writer.ledger, 10)
    for number in range(1000):
        sink.offer(exposure(str(number)))
    writer.may_write.set()
    sink.close()
    counts = sink.counts()
    assert counts["dropped"] >= 1000 - 10 - 256
    assert counts["written"] == len(writer.taken) == 1000 - counts["dropped"]
    assert counts["failed"] == 0


def test_after_failed_writes_the_next_are_tried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, clock: list[float]
) -> None:
    writer = Held(tmp_path)
    writer.may_write.set()
    writer.fails = True
    sink = ExposureSink(writer, writer.ledger, 1000)
    for number in range(300):
        sink.offer(exposure(str(number)))
    wait_for(lambda: sink.counts()["failed"] == 300, "300 failed writes")
    writer.fails = False
    sink.offer(exposure("after"))
    sink.close()
    assert sink.counts() == {"written": 1, "dropped": 0, "failed": 300, "lost": 0}
    assert [number for number, _ in writer.taken] == [300]
    said = [each for each in caplog.messages if "could not be written" in each]
    assert len(said) == 1, "once in a while, however many fail"
    assert said[0].endswith("could not be written: no space")


def test_the_log_has_each_kind_of_trouble_once_in_a_while(caplog: pytest.LogCaptureFixture, clock: list[float]) -> None:
    for number in range(5):
        LOG.warning("%d pages failed", number)
        LOG.warning("closing failed: %s", number)
    clock[0] += 59
    LOG.warning("%d pages failed", 5)
    assert caplog.messages == ["0 pages failed", "closing failed: 0"]
    clock[0] += 2
    LOG.warning("%d pages failed", 6)
    LOG.warning("%d pages failed", 7)
    assert caplog.messages[2:] == ["6 pages failed (5 more like it since 61 s)"]


def test_dropped_pages_are_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture, clock: list[float]) -> None:
    writer = Held(tmp_path)
    sink = ExposureSink(writer, writer.ledger, 10)
    for number in range(1000):
        sink.offer(exposure(str(number)))
    writer.may_write.set()
    sink.close()
    assert f"{sink.counts()['dropped']} dropped, because 10 waited already" in caplog.text


FULL = """
import resource, sys
from pathlib import Path
from test_exposures import numbered, writing
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
writer, lost = writing(Path(sys.argv[1]), "full"), 0
for number in range(9):
    try:
        writer.write(numbered(number))
    except OSError:
        lost += 1
print(lost)
"""


def test_a_full_disk_leaves_whole_rows_and_exact_counts(tmp_path: Path) -> None:
    size = len(exposure("0").line("full", 0))
    command = [sys.executable, "-c", FULL, str(tmp_path), str(size * 4 + size // 2)]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    found = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "5"
    assert read_exposures(tmp_path).column("page_id").to_pylist() == ["0", "1", "2", "3"]


KILLED = """
import sys, time
from pathlib import Path
from test_exposures import exposure, recording
from waiting import wait_for
sink = recording(Path(sys.argv[1]), "killed")
for number in range(8):
    sink.offer(exposure(str(number)))
wait_for(lambda: sink.counts()["written"] == 8, "8 written")
sink._writer.write = lambda taken: time.sleep(600)
for number in range(7):
    sink.offer(exposure("lost"))
print("written", flush=True)
time.sleep(600)
"""


def test_what_a_killed_process_wrote_is_kept_and_what_it_lost_is_counted(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    folder = ExposureFolder(tmp_path)
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"written\n"
            # Its process lives, so another one leaves its journal alone.
            assert folder.adopt() == 0
            assert len(folder.journals()) == 1
            assert folder.totals() == {"offered": 15, "dropped": 0, "written": 8, "failed": 0, "lost": 0}
        finally:
            process.kill()
    (journal,) = folder.journals()
    with journal.open("ab") as file:
        file.write(b'{"page_id":"ha')
    assert read_exposures(tmp_path).num_rows == 8
    ended = {"offered": 15, "dropped": 0, "written": 8, "failed": 0, "lost": 7}
    assert folder.totals() == ended
    sink = recording(tmp_path)
    wait_for(lambda: sink.counts()["lost"], "the loss")
    assert sink.counts()["lost"] == 7
    sink.close()
    assert not folder.journals()
    assert folder.totals() == ended
    assert read_exposures(tmp_path).column("sequence").to_pylist() == list(range(8))


def test_a_process_killed_between_a_write_and_its_count_has_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "p")
    writer = SegmentWriter(ledger, LIMITS)
    ledger.add("offered", 30)
    writer.write(numbered(*range(20)))
    writer.tick()
    writer.write(numbered(*range(20, 25)))
    ledger["written"] = 20
    ledger.close()
    folder = ExposureFolder(tmp_path)
    assert folder.totals() == {"offered": 30, "dropped": 0, "written": 25, "failed": 0, "lost": 5}
    assert folder.adopt() == 5
    assert folder.totals() == {"offered": 30, "dropped": 0, "written": 25, "failed": 0, "lost": 5}


def test_an_adopter_that_is_killed_does_not_count_twice(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "p")
    ledger.add("offered", 3)
    ledger.persist()
    ledger.close()
    kept = (tmp_path / "p.ledger").read_bytes()
    folder = ExposureFolder(tmp_path)
    assert folder.adopt() == 3
    (tmp_path / "p.ledger").write_bytes(kept)  # as if it had been killed before it deleted the ledger
    assert folder.totals()["lost"] == 3
    assert folder.adopt() == 0
    assert folder.totals()["lost"] == 3
    assert not (tmp_path / "p.ledger").exists()


def test_after_the_end_of_the_machine_the_copy_on_disk_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "p")
    ledger.persist()
    ledger.add("offered", 5)
    ledger.save()
    ledger.add("offered", 3)
    assert ExposureFolder(tmp_path).totals()["offered"] == 8
    shared(tmp_path, "p").unlink()
    assert ExposureFolder(tmp_path).totals()["offered"] == 5
    writer = SegmentWriter(ledger, LIMITS)
    writer.write(numbered(*range(8)))
    fcntl.flock(ledger._descriptor, fcntl.LOCK_UN)
    assert ExposureFolder(tmp_path).adopt() == 0
    assert ExposureFolder(tmp_path).totals() == {"offered": 5, "dropped": 0, "written": 8, "failed": 0, "lost": 0}


def test_counts_of_a_process_without_room_for_its_ledger_are_kept_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ledger = Ledger(tmp_path / "file" / "exposures", "p")
    ledger.add("offered", 3)
    with pytest.raises(OSError, match="file"):
        ledger.persist()
    assert ledger["offered"] == 3
    (tmp_path / "file").unlink()
    ledger.persist()
    ledger.add("offered")
    assert ExposureFolder(tmp_path / "file" / "exposures").totals()["offered"] == 4


def test_a_segment_that_cannot_be_closed_stays_readable_and_is_closed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space")

    writer, folder = writing(tmp_path, "p"), ExposureFolder(tmp_path)
    writer.write(numbered(*range(10)))
    with monkeypatch.context() as patched:
        patched.setattr(journal, "convert", full)
        writer.tick()
        assert not writer.close()
    assert not folder.segments()
    assert read_exposures(tmp_path).num_rows == 10
    writer.write(numbered(10))
    assert len(folder.journals()) == 1, "the one that is open"
    assert writer.close()
    assert not folder.journals()
    assert read_exposures(tmp_path).column("sequence").to_pylist() == list(range(11))


def test_pages_whose_segment_cannot_be_closed_count_as_written(tmp_path: Path) -> None:
    writer = Held(tmp_path)
    writer.may_write.set()
    writer.tick_fails = True
    sink = ExposureSink(writer, writer.ledger, 1000)
    for number in range(300):
        sink.offer(exposure(str(number)))
    sink.close()
    assert sink.counts() == {"written": 300, "dropped": 0, "failed": 0, "lost": 0}
    assert len(writer.taken) == 300


def test_the_oldest_segments_go_first(tmp_path: Path) -> None:
    writer = writing(tmp_path, "p", SegmentLimits(rows=1, seconds=3600, bytes=20_000, days=90))
    for number in range(20):
        writer.write(numbered(number))
        writer.tick()
    kept = read_exposures(tmp_path).column("sequence").to_pylist()
    assert kept == list(range(20 - len(kept), 20))
    assert 1 <= len(kept) < 20
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000


def test_journals_that_cannot_become_segments_do_not_fill_the_disk(tmp_path: Path) -> None:
    (tmp_path / "20200101T000000-gone-000000000.jsonl").write_bytes(b"no exposure" * 3000 + b"\n")
    writer = writing(tmp_path, "p", SegmentLimits(rows=1, seconds=3600, bytes=20_000, days=90))
    ExposureFolder(tmp_path).adopt()
    assert ExposureFolder(tmp_path).dead_journals()
    writer.write(numbered(0))
    writer.tick()
    assert not ExposureFolder(tmp_path).dead_journals()
    assert read_exposures(tmp_path).num_rows == 1


def test_a_folder_that_cannot_be_made_at_first_is_written_later(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sink = recording(tmp_path / "file" / "exposures")
    sink.offer(exposure("0"))
    wait_for(lambda: sink.counts()["failed"] == 1, "a failed write")
    (tmp_path / "file").unlink()
    sink.offer(exposure("1"))
    wait_for(lambda: sink.counts()["written"] == 1, "a write")
    sink.close()
    assert read_exposures(tmp_path / "file" / "exposures").column("page_id").to_pylist() == ["1"]
    counts = {"offered": 2, "dropped": 0, "written": 1, "failed": 1, "lost": 0}
    assert ExposureFolder(tmp_path / "file" / "exposures").totals() == counts


def test_keys_of_shoppers_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ShopperKeys(b"secret")
    assert keys.hashed(b"shopper") == keys.hashed(b"shopper") != keys.hashed(b"shopper2")
    assert ShopperKeys(b"other").hashed(b"shopper") != keys.hashed(b"shopper")
    assert keys.hashed(b"") == ""
    assert len(keys.hashed(b"\xff{}")) == 32
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    assert ShopperKeys.configured().hashed(b"shopper") == ""
    (tmp_path / "key").write_text("secret\n", encoding="utf-8")
    monkeypatch.setenv(SECRET_VARIABLE, str(tmp_path / "key"))
    assert ShopperKeys.configured().hashed(b"shopper") == keys.hashed(b"shopper")


def test_a_shopper_key_is_opaque_and_short() -> None:
    assert read_request({"SHOPPER": np.array([b"\xff" * 128], object)}, 1000, 1000).shopper == b"\xff" * 128
    with pytest.raises(InvalidRequest, match="SHOPPER: expected at most 128 bytes, got 129 bytes"):
        read_request({"SHOPPER": np.array([b"x" * 129], object)}, 1000, 1000)
    with pytest.raises(InvalidRequest, match="SHOPPER: expected one key"):
        read_request({"SHOPPER": np.array([b"x", b"y"], object)}, 1000, 1000)
