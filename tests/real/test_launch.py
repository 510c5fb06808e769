"""`endcap serve` as a user and an init system meet it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from endcap_client import Client
from endcap_server.launch import LaunchError, Server, ServerOptions

pytestmark = pytest.mark.server

SERVE = [sys.executable, "-m", "endcap_client.cli", "serve"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stops_cleanly(build: Path, number: int) -> None:
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    launcher = subprocess.Popen([*SERVE, "--build", str(build), *ports], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    line = launcher.stdout.readline()
    address = line.split("grpc ")[1].split(",")[0]
    with Client(address, timeout_s=10) as client:
        assert client.ready()
    server = int(subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True).stdout.split()[0])
    ours = {region for region in os.listdir("/dev/shm") if region.startswith("endcap-")}
    launcher.send_signal(number)
    assert launcher.wait(60) == 0
    launcher.stdout.close()
    assert not subprocess.run(["pgrep", "-g", str(server)], capture_output=True, text=True).stdout
    left = {region for region in os.listdir("/dev/shm") if region.startswith("endcap-")}
    assert len(left) < len(ours), "shared memory of the stopped server is gone"


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
