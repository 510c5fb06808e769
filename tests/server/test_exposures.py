import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from endcap_server.declared.errors import InvalidRequest
from endcap_server.exposures import segments
from endcap_server.exposures.record import SECRET_VARIABLE, Exposure, ShopperKeys
from endcap_server.exposures.segments import SegmentLimits, SegmentWriter, read_exposures
from endcap_server.exposures.sink import ExposureSink
from endcap_server.stages.contract import read_request
from waiting import wait_for

LIMITS = SegmentLimits(rows=10, seconds=3600, bytes=1 << 30, days=90)


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


class Held:
    """A writer that waits until it may write, and then fails if it is told to."""

    def __init__(self) -> None:
        self.may_write, self.fails, self.tick_fails = threading.Event(), False, False
        self.lines: list[bytes] = []

    def write(self, lines: Sequence[bytes]) -> None:
        self.may_write.wait()
        if self.fails:
            raise OSError("no space")
        self.lines += lines

    def tick(self) -> None:
        if self.fails or self.tick_fails:
            raise OSError("no space")

    close = tick


def test_a_page_is_read_as_it_was_shown(tmp_path: Path) -> None:
    sink = ExposureSink(SegmentWriter(tmp_path, "p", LIMITS), "p", 100)
    for number in range(25):
        sink.offer(exposure(str(number), "ab"))
    sink.close()
    assert sink.counts() == {"written": 25, "dropped": 0, "failed": 0}
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
    writer = Held()
    sink = ExposureSink(writer, "p", 10)
    for number in range(1000):
        sink.offer(exposure(str(number)))
    writer.may_write.set()
    sink.close()
    counts = sink.counts()
    assert counts["dropped"] >= 1000 - 10 - 256
    assert counts["written"] == len(writer.lines) == 1000 - counts["dropped"]
    assert counts["failed"] == 0


def test_after_failed_writes_the_next_are_tried() -> None:
    writer = Held()
    writer.may_write.set()
    writer.fails = True
    sink = ExposureSink(writer, "p", 1000)
    for number in range(300):
        sink.offer(exposure(str(number)))
    wait_for(lambda: sink.counts()["failed"] == 300, "300 failed writes")
    writer.fails = False
    sink.offer(exposure("after"))
    sink.close()
    assert sink.counts() == {"written": 1, "dropped": 0, "failed": 300}
    assert json.loads(writer.lines[0])["sequence"] == 300


FULL = """
import resource, sys
from pathlib import Path
from test_exposures import LIMITS, exposure
from endcap_server.exposures.segments import SegmentWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
writer, lost = SegmentWriter(Path(sys.argv[1]), "full", LIMITS), 0
for number in range(9):
    try:
        writer.write([exposure(str(number)).line("full", number)])
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
from test_exposures import LIMITS, exposure
from endcap_server.exposures.segments import SegmentWriter
writer = SegmentWriter(Path(sys.argv[1]), "killed", LIMITS)
for number in range(15):
    writer.write([exposure(str(number)).line("killed", number)])
print("written", flush=True)
time.sleep(600)
"""


def test_what_a_killed_process_wrote_is_kept_and_becomes_a_segment(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        # Its journal is locked, so another process leaves it alone.
        SegmentWriter(tmp_path, "other", LIMITS)
        assert len(list(tmp_path.glob("*.jsonl"))) == 1
        process.send_signal(signal.SIGKILL)
    (journal,) = tmp_path.glob("*.jsonl")
    with journal.open("ab") as file:
        file.write(b'{"page_id":"ha')
    assert read_exposures(tmp_path).num_rows == 15
    SegmentWriter(tmp_path, "next", LIMITS)
    assert not list(tmp_path.glob("*.jsonl"))
    assert read_exposures(tmp_path).column("sequence").to_pylist() == list(range(15))


def test_a_segment_that_cannot_be_closed_stays_readable_and_is_closed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space")

    writer = SegmentWriter(tmp_path, "p", LIMITS)
    writer.write([exposure(str(number)).line("p", number) for number in range(10)])
    with monkeypatch.context() as patched:
        patched.setattr(segments, "_convert", full)
        writer.tick()
    assert [path.suffix for path in tmp_path.iterdir()] == [".jsonl"]
    assert read_exposures(tmp_path).num_rows == 10
    writer.write([exposure("10").line("p", 10)])
    assert len(list(tmp_path.glob("*.jsonl"))) == 1, "the one that is open"
    writer.close()
    assert not list(tmp_path.glob("*.jsonl"))
    assert read_exposures(tmp_path).column("sequence").to_pylist() == list(range(11))


def test_pages_whose_segment_cannot_be_closed_count_as_written() -> None:
    writer = Held()
    writer.may_write.set()
    writer.tick_fails = True
    sink = ExposureSink(writer, "p", 1000)
    for number in range(300):
        sink.offer(exposure(str(number)))
    sink.close()
    assert sink.counts() == {"written": 300, "dropped": 0, "failed": 0}
    assert len(writer.lines) == 300


def test_the_oldest_segments_go_first(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "p", SegmentLimits(rows=1, seconds=3600, bytes=20_000, days=90))
    for number in range(20):
        writer.write([exposure(str(number)).line("p", number)])
        writer.tick()
    kept = read_exposures(tmp_path).column("sequence").to_pylist()
    assert kept == list(range(20 - len(kept), 20))
    assert 1 <= len(kept) < 20
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000


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
