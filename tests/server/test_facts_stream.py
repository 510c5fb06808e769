"""Facts from a Redis stream, with the real redis-server."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endcap_server.facts.records import KnownNames
from endcap_server.facts.stream import StreamAddress, StreamFollower
from endcap_server.shop.facts import FOLDER
from endcap_server.shop.facts_journal import FactsError
from endcap_server.shop.facts_state import FactChange, FactsState, FactsWriter
from endcap_server.shop.facts_writer import JournalWriter
from endcap_server.shop.store import ItemStore
from redis_server import RedisServer
from tiny_shop import build_shop
from waiting import wait_for


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "redis"
    folder.mkdir()
    with RedisServer(folder) as running:
        yield running


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return build_shop(tmp_path / "build")


class Following:
    """A follower in a thread; a context manager."""

    def __init__(self, address: str, build: Path, password: str | None = None) -> None:
        self.lines: list[str] = []
        self.error: Exception | None = None
        known = KnownNames([ItemStore.open(build)])
        writer = FactsWriter(build / FOLDER, "test")
        stream = StreamAddress.read(address, password)
        self.follower = StreamFollower(stream, "group", writer, lambda: known, self.lines.append)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.follower.run(self._stopped)
        except FactsError as error:
            self.error = error

    def __enter__(self) -> "Following":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


def price(build: Path, product: str) -> float | None:
    found = FactsState.read(build / FOLDER).of(product).get("price")
    return None if found is None else found[0]


def add(server: RedisServer, **fields: Any) -> str:
    return str(server.client.xadd("stock", fields))


def test_entries_are_taken_in_order_and_acknowledged(server: RedisServer, build: Path) -> None:
    before = add(server, product_id="p1", price=1)
    with Following(server.url("stock"), build) as following:
        wait_for(lambda: price(build, "p1") == 1, "an entry from before the first start")
        add(server, product_id="p1", price=2)
        add(server, product_id="p2", stock=0)
        add(server, rule="ban", subject="brand:Ostara", reason="recall")
        wait_for(lambda: FactsState.read(build / FOLDER).rules, "the rule")
        wait_for(lambda: server.client.xpending("stock", "group")["pending"] == 0, "acknowledgements")
    state = FactsState.read(build / FOLDER)
    assert state.of("p1")["price"][0] == 2
    assert state.of("p2")["in_stock"] == (0.0, state.of("p2")["in_stock"][1])
    assert state.as_of is not None
    assert state.as_of >= int(before.partition("-")[0]) / 1e3
    assert (following.follower.taken, following.follower.refused) == (4, 0)
    add(server, product_id="p3", price=3)
    with Following(server.url("stock"), build) as following:
        wait_for(lambda: price(build, "p3") == 3, "what came while nobody followed")
    assert following.follower.taken == 1


def test_what_was_delivered_and_not_acknowledged_comes_again(server: RedisServer, build: Path) -> None:
    server.client.xgroup_create("stock", "group", id="0", mkstream=True)
    lost = add(server, product_id="p1", price=1)
    removed = add(server, product_id="p2", price=2)
    server.client.xreadgroup("group", "endcap", {"stock": ">"})
    server.client.xdel("stock", removed)
    assert server.client.xpending("stock", "group")["min"] == lost
    with Following(server.url("stock"), build):
        wait_for(lambda: price(build, "p1") == 1, "the entry")
        wait_for(lambda: server.client.xpending("stock", "group")["pending"] == 0, "acknowledgements")


def test_wrong_entries_become_dead_letters_with_the_reason(server: RedisServer, build: Path) -> None:
    with Following(server.url("stock"), build) as following:
        names = [
            add(server, product_id="p99", stock=1),
            add(server, product_id="p1", price=-1),
            add(server, note="hello"),
            add(server, product_id="p1", price=1, time=time.time() + 5000),
            str(server.client.xadd("stock", {"product_id": b"\xff", "price": 1})),
        ]
        add(server, product_id="p5", price=5)
        wait_for(lambda: price(build, "p5") == 5, "the entry after the wrong ones")
        wait_for(lambda: following.follower.taken == 1 and following.follower.refused == 5, "their counts")
    raw = server.client
    letters = [fields for _, fields in raw.xrange("stock:dead", count=4)]
    assert [letter["entry"] for letter in letters] == names[:4]
    assert letters[0]["product_id"] == "p99"
    assert letters[0]["error"].startswith("product_id: expected a product of the catalogue")
    assert letters[1]["error"].startswith("price: expected greater than or equal to 0")
    assert letters[2]["error"] == "product_id: expected a value, got none"
    assert letters[3]["error"].startswith("time: expected a time that is not in the future")
    assert raw.xlen("stock:dead") == 5
    assert price(build, "p1") is None
    assert any("entries went to stock:dead" in line for line in following.lines)


def test_columns_that_others_declare_are_part_of_entries(server: RedisServer, build: Path) -> None:
    FactsWriter(build / FOLDER, "test").write([FactChange("p1", "margin", 0.5, 1.0)])
    add(server, product_id="p2", margin=0.25)
    with Following(server.url("stock"), build) as following:
        wait_for(lambda: "margin" in FactsState.read(build / FOLDER).of("p2"), "the column of an earlier file")
        FactsWriter(build / FOLDER, "test").write([FactChange("p1", "rating", 5.0, 1.0)])
        add(server, product_id="p3", rating=4)
        wait_for(lambda: "rating" in FactsState.read(build / FOLDER).of("p3"), "that of a file meanwhile")
    assert following.follower.refused == 0


def test_redis_goes_away_and_comes_back(server: RedisServer, build: Path) -> None:
    with Following(server.url("stock"), build) as following:
        add(server, product_id="p1", price=1)
        wait_for(lambda: price(build, "p1") == 1, "the first entry")
        server.stop()
        wait_for(lambda: following.lines, "a line that Redis is away")
        time.sleep(0.3)
        assert len(following.lines) == 1, following.lines
        assert f"redis://127.0.0.1:{server.port}/stock does not answer" in following.lines[0]
        server.start()
        add(server, product_id="p1", price=2)
        wait_for(lambda: price(build, "p1") == 2, "what came afterwards")
        wait_for(lambda: len(following.lines) == 2, "a line that it is back")
    assert "goes on" in following.lines[1]


def test_a_journal_that_cannot_be_written_keeps_entries_in_redis(server: RedisServer, build: Path) -> None:
    other = JournalWriter(build / FOLDER, "endcap facts set big.csv")
    with Following(server.url("stock"), build) as following:
        following.follower._writer.patience_s = 0.05
        with other.locked():
            add(server, product_id="p1", price=1)
            wait_for(lambda: following.lines, "a line")
            assert "endcap facts set big.csv is writing" in following.lines[0]
            assert server.client.xpending("stock", "group")["pending"] == 1
        wait_for(lambda: price(build, "p1") == 1, "the entry")
        wait_for(lambda: server.client.xpending("stock", "group")["pending"] == 0, "its acknowledgement")


def test_quiet_streams_keep_facts_fresh(server: RedisServer, build: Path) -> None:
    started = time.time()
    with Following(server.url("stock"), build):
        wait_for(lambda: (FactsState.read(build / FOLDER).as_of or 0) >= started, "a time without an entry")


def test_a_password_and_what_is_no_stream(tmp_path: Path, build: Path) -> None:
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis", "--requirepass", "secret") as server:
        with Following(server.url("stock"), build) as refused:
            wait_for(lambda: refused.error, "an error")
        assert "correct the password" in str(refused.error)
        with Following(server.url("stock"), build, "secret") as following:
            follower = following.follower
            follower._redis.xadd("stock", {"product_id": "p1", "price": 1})
            wait_for(lambda: price(build, "p1") == 1, "the entry")
            follower._redis.set("text", "no stream")
        with Following(server.url("text"), build, "secret") as wrong:
            wait_for(lambda: wrong.error, "an error")
        assert "expected a stream, got" in str(wrong.error)


@pytest.mark.parametrize("address", ["http://h/s", "redis://h", "redis:///s", "redis://h/x/s", "redis://h/1/2/s"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(FactsError, match="expected"):
        StreamAddress.read(address)


def test_an_address_is_shown_without_its_password() -> None:
    address = StreamAddress.read("redis://me:secret@host:7000/3/stock%20now")
    assert (address.server, address.stream) == ("redis://me:secret@host:7000/3", "stock now")
    assert address.shown == "redis://host:7000/3/stock%20now"


def test_the_command_follows_until_it_is_stopped_and_only_once(server: RedisServer, build: Path) -> None:
    words = [sys.executable, "-P", "-m", "endcap_client.cli", "facts", "follow", server.url("stock")]
    words += ["--build", str(build), "--group", "shop"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr is not None
        assert "follows redis://127.0.0.1" in first.stderr.readline()
        second = subprocess.run(words, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert f"process {first.pid}, endcap facts follow redis://" in second.stderr
        add(server, product_id="p1", price=1)
        wait_for(lambda: price(build, "p1") == 1, "the entry")
        os.kill(first.pid, signal.SIGTERM)
        assert first.wait(60) == 0
        assert "stopped; 1 entries taken, 0 refused" in first.stderr.read()


def test_a_killed_follower_loses_nothing(server: RedisServer, build: Path) -> None:
    words = [sys.executable, "-P", "-m", "endcap_client.cli", "facts", "follow", server.url("stock")]
    words += ["--build", str(build), "--group", "group"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stderr is not None
        follower.stderr.readline()
        for number in range(200):
            add(server, product_id=f"p{number % 64}", price=number)
        follower.kill()
    with Following(server.url("stock"), build):
        wait_for(lambda: [price(build, f"p{row}") for row in (7, 8)] == [199.0, 136.0], "every last price")


def test_entries_wait_in_redis_while_the_disk_is_full(server: RedisServer, build: Path) -> None:
    words = [sys.executable, "-P", "-m", "endcap_client.cli", "facts", "follow", server.url("stock")]
    words += ["--build", str(build), "--group", "group"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as follower:
        try:
            assert follower.stderr is not None
            follower.stderr.readline()
            add(server, product_id="p1", price=1)
            wait_for(lambda: price(build, "p1") == 1, "the first entry")
            # A limit for the size of files acts on a write as a full disk does.
            unlimited = resource.prlimit(follower.pid, resource.RLIMIT_FSIZE)
            size = sum(path.stat().st_size for path in (build / FOLDER).glob("journal-*"))
            resource.prlimit(follower.pid, resource.RLIMIT_FSIZE, (size + 10, unlimited[1]))
            add(server, product_id="p1", price=2)
            assert "free space" in follower.stderr.readline()
            assert server.client.xpending("stock", "group")["pending"] == 1
            assert price(build, "p1") == 1
            resource.prlimit(follower.pid, resource.RLIMIT_FSIZE, unlimited)
            wait_for(lambda: price(build, "p1") == 2, "the entry")
            wait_for(lambda: server.client.xpending("stock", "group")["pending"] == 0, "its acknowledgement")
        finally:
            follower.terminate()
