"""`endcap serve` as a user and an init system meet it."""

import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from endcap_client import Client, Page
from endcap_client.errors import EndcapError
from endcap_server.launch import LaunchError, Server, ServerOptions
from endcap_server.shop.store import ItemStore
from waiting import HANGS_S, wait_for

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
        launcher.send_signal(signal.SIGTERM)
        launcher.wait(HANGS_S)
        launcher.stdout.close()


def content(page: Page) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Titles and products of a page, and the stages that degraded."""
    placements = [(each.theme, *(product.product_id for product in each.products)) for each in page.placements]
    return placements, page.status.degraded


def test_requests_in_flight_end_before_it_stops(client: Client, store: ItemStore, draining: Draining) -> None:
    histories = [[store.product_ids[(row * 71 + step) % len(store)] for step in range(3)] for row in range(6)]
    expected = [content(client.storefront(each, budget_ms=15_000)) for each in histories]
    with Client(draining.grpc, timeout_s=20) as stopped, ThreadPoolExecutor(6) as pool:
        pages = [pool.submit(stopped.storefront, each, budget_ms=15_000) for each in histories]
        while stopped.search("lamp", budget_ms=15_000).status.document["stages"]["retrieval"]["in_flight"] < 5:
            assert not all(page.done() for page in pages), "they were in flight"
        assert urllib.request.urlopen(draining.ready).status == 200
        draining.launcher.send_signal(signal.SIGTERM)
        refusals: list[EndcapError] = []

        def refused() -> bool:
            try:
                stopped.search("lamp")
            except EndcapError as error:
                refusals.append(error)
            return bool(refusals)

        wait_for(refused, "new requests are refused")
        assert "the server is stopping; ask another one" in str(refusals[0])
        assert refusals[0].code == "UNAVAILABLE"
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(draining.ready)
        assert [content(page.result()) for page in pages] == expected, "no stage of a page in flight is cut short"
        assert draining.launcher.poll() is None
        traces = Traces.of(draining.launcher.pid)
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
