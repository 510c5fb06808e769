"""`endcap serve` as a user and an init system meet it."""

import itertools
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from endcap_client import Client, Page
from endcap_client.errors import EndcapError, Overloaded
from endcap_server.launch import LaunchError, Server, ServerOptions
from endcap_server.shop.store import ItemStore
from waiting import HANGS_S, wait_for

BUDGET_MS = 60_000
SERVE = [sys.executable, "-m", "endcap_client.cli", "serve"]


@dataclass(frozen=True)
class Traces:
    """What a running server has on the machine: its session of processes, and its shared memory."""

    session: int
    shared_memory: frozenset[Path]

    @classmethod
    def of(cls, launcher: int) -> "Traces":
        server = int(subprocess.run(["pgrep", "-P", str(launcher)], capture_output=True, text=True).stdout.split()[0])
        maps = Path(f"/proc/{server}/maps").read_text(encoding="utf-8").splitlines()
        regions = frozenset(Path(line.split()[5]) for line in maps if "/dev/shm/endcap-" in line)
        assert regions
        return cls(server, regions)

    def left(self) -> list[object]:
        processes = subprocess.run(["pgrep", "-g", str(self.session)], capture_output=True, text=True).stdout.split()
        return [*processes, *(region for region in self.shared_memory if region.exists())]


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stops_cleanly(build: Path, number: int) -> None:
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    launcher = subprocess.Popen([*SERVE, "--build", str(build), *ports], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    line = launcher.stdout.readline()
    address = line.split("grpc ")[1].split(",")[0]
    with Client(address, timeout_s=10) as client:
        assert client.ready()
    traces = Traces.of(launcher.pid)
    launcher.send_signal(number)
    assert launcher.wait(HANGS_S) == 0
    launcher.stdout.close()
    assert traces.left() == []


@dataclass
class Draining:
    """`endcap serve` whose launcher is to be told to stop, where it listens for gRPC, and its readiness."""

    launcher: subprocess.Popen[str]
    grpc: str
    ready: str


@pytest.fixture
def draining(build: Path) -> Iterator[Draining]:
    words = ["--build", str(build), "--drain-seconds", "600"]
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", "--health-port", "0"]
    launcher = subprocess.Popen([*SERVE, *words, *ports], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    try:
        line = launcher.stdout.readline()
        health = line.split("health ")[1].split()[0]
        yield Draining(launcher, line.split("grpc ")[1].split(",")[0], f"http://{health}/ready")
    finally:
        # The first signal starts to drain, which a failed test may have done already; the second one stops at once.
        for _ in range(2):
            launcher.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                launcher.wait(2)
        launcher.wait(HANGS_S)
        launcher.stdout.close()


def content(page: Page) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Titles and products of a page, and the stages that degraded."""
    placements = [(each.theme, *(product.product_id for product in each.products)) for each in page.placements]
    return placements, page.status.degraded


@dataclass
class Shoppers:
    """Clients that ask for one page after the other until the server stops; the pages with their times (monotonic)."""

    client: Client
    store: ItemStore
    numbers: Iterator[int] = field(default_factory=itertools.count)
    pages: list[tuple[float, float, list[str], Page]] = field(default_factory=list)
    refusals: list[EndcapError] = field(default_factory=list)

    def ask(self, _: int) -> None:
        while True:
            row, started = 71 * next(self.numbers), time.monotonic()
            history = [self.store.product_ids[(row + step) % len(self.store)] for step in range(3)]
            try:
                page = self.client.storefront(history, budget_ms=BUDGET_MS)
                self.pages.append((started, time.monotonic(), history, page))
            except Overloaded:
                time.sleep(0.05)
            except EndcapError as error:
                self.refusals.append(error)
                return


def test_requests_in_flight_end_before_it_stops(client: Client, store: ItemStore, draining: Draining) -> None:
    traces = Traces.of(draining.launcher.pid)
    with Client(draining.grpc, timeout_s=HANGS_S) as stopped, ThreadPoolExecutor(4) as pool:
        shoppers = Shoppers(stopped, store)
        asking = [pool.submit(shoppers.ask, number) for number in range(4)]
        wait_for(lambda: len(shoppers.pages) > 4, "pages")
        assert urllib.request.urlopen(draining.ready).status == 200
        stopped_at = time.monotonic()
        draining.launcher.send_signal(signal.SIGTERM)
        for each in asking:
            each.result()
        assert {error.code for error in shoppers.refusals} == {"UNAVAILABLE"}
        assert all("the server is stopping; ask another one" in str(error) for error in shoppers.refusals)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(draining.ready)
        in_flight = [(asked, page) for begun, ended, asked, page in shoppers.pages if begun < stopped_at < ended]
        assert in_flight
        for asked, page in in_flight:
            whole = content(client.storefront(asked, budget_ms=BUDGET_MS))
            assert content(page) == whole, "no stage of a page in flight is cut short"
        assert draining.launcher.poll() is None
        draining.launcher.send_signal(signal.SIGINT)
        assert draining.launcher.wait(HANGS_S) == 0, "a second signal stops at once"
        assert traces.left() == []


def test_absent_build(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"no model repository in .*nothing.*; build one with"):
        Server(ServerOptions(build=tmp_path / "nothing"))


def test_taken_port(build: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LaunchError, match=rf"cannot listen on 127.0.0.1:{port} .* another --grpc-port"):
            Server(ServerOptions(build=build, grpc_port=port, http_port=0, metrics_port=0))


def test_environment_without_server(build: Path) -> None:
    with pytest.raises(LaunchError, match="has no tritonserver"):
        Server(ServerOptions(build=build, grpc_port=0, http_port=0, metrics_port=0, python=Path(sys.executable)))


def test_model_that_does_not_load(build: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for each in build.iterdir():
        if each.name != "repository":
            (broken / each.name).symlink_to(each)
    shutil.copytree(build / "repository", broken / "repository")
    config = broken / "repository/fusion/config.pbtxt"
    typing_error = 'parameters { key: "wieght" value { string_value: "1" } }'
    config.write_text(f"{config.read_text(encoding='utf-8')}{typing_error}\n", encoding="utf-8")
    options = ServerOptions(build=broken, grpc_port=0, http_port=0, metrics_port=0)
    with pytest.raises(LaunchError, match="wieght"), Server(options):
        pass
