"""The supervisor's rules, on a server that is a shell: it ends when told to, or does not start."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from endcap_server.launch import LaunchError, Server, Supervisor, supervisor
from endcap_server.launch.server_log import ServerLog
from endcap_server.serving.processes import model_processes


class ShellServer(Server):
    """Starts a shell script where tritonserver would be."""

    def __init__(self, log: Path, script: str) -> None:
        self.script, self.log = script, ServerLog(log)
        self.process = None
        self.http_port, self.control_key = 1, ""
        self.starts = 0

    @property
    def http_address(self) -> str:
        return "127.0.0.1:1"

    def start(self) -> None:
        self.starts += 1
        with self.log.open() as log:
            self.process = subprocess.Popen(["sh", "-c", self.script], stdout=log, start_new_session=True)

    def stop(self, grace_s: float = 20.0) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE_S", 0.01)


def test_a_server_that_ends_again_and_again_is_given_up(tmp_path: Path) -> None:
    said: list[str] = []
    server = ShellServer(tmp_path / "log", 'echo "E1 x.cc:1] failed to load fusion"; exit 3')
    server.start()
    with pytest.raises(
        LaunchError, match=r"ended with status 3: failed to load fusion \(restarted 5 times within 60 s"
    ):
        Supervisor(server, said.append).run()
    assert server.starts == 6
    assert len(said) == 5
    assert all("started it again in" in line for line in said)


def test_what_a_server_wrote_as_it_ended_itself_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    server = ShellServer(tmp_path / "log", "echo terminate called after throwing; echo '  what():  x'; kill -ABRT $$")
    server.start()
    with pytest.raises(LaunchError):
        Supervisor(server, said.append).run()
    told = "the server was killed by signal 6 (terminate called after throwing what():  x); started it again in"
    assert said[0].startswith(told)


def test_a_start_that_fails_is_tried_again(tmp_path: Path) -> None:
    class Flaky(ShellServer):
        def start(self) -> None:
            if 1 <= self.starts <= 2:
                self.starts += 1
                raise LaunchError("no memory")
            super().start()

    said: list[str] = []
    server = Flaky(tmp_path / "log", "sleep 60")
    server.start()
    assert server.process is not None
    first = server.process

    def run() -> None:
        with pytest.raises(LaunchError):
            Supervisor(server, said.append).run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    first.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while len(said) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert said[:2] == ["could not start the server again: no memory"] * 2
    assert said[2].startswith("no memory; started it again in")
    server.script = "exit 1"
    server.process.kill()
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def models(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A shell with two children that look like Triton's model processes."""
    stub = tmp_path / "triton_python_backend_stub"
    stub.symlink_to(sys.executable)
    for name in ("theme", "nearest"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1/model.py").write_text("import time; time.sleep(60)", encoding="utf-8")
    script = f"{stub} {tmp_path}/theme/1/model.py & {stub} {tmp_path}/nearest/1/model.py & wait"
    shell = subprocess.Popen(["sh", "-c", script], start_new_session=True)
    yield shell
    os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()


def test_model_processes(models: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while len(found := model_processes(models.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sorted(found.values()) == ["nearest", "theme"]
    process = next(process for process, model in found.items() if model == "theme")
    os.kill(process, signal.SIGKILL)
    while len(found := model_processes(models.pid)) > 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(found.values()) == ["nearest"]
    assert model_processes(os.getpgid(0)) == {}
