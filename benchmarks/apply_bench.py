"""A server under a constant stream of requests, and the commands of rollouts on it, killed at a step if need be."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from endcap_client import Client
from endcap_server.launch import Server, ServerOptions
from endcap_server.models import base_name
from endcap_server.serving.generation import StateFolder
from endcap_server.serving.journal import Standing
from endcap_server.serving.processes import model_processes
from endcap_server.serving.running import RunningServer, find_server
from endcap_server.shop.store import ItemStore

from benchmarks.apply_sources import copy_build
from benchmarks.apply_traffic import TIMEOUT_S, ApplyTraffic, ask

STRICT = ("--set", "watch_s=1", "--set", "sample=8")
"""Settings of short rollouts."""
_LOOSE = ("max_latency_ratio", "latency_slack_ms", "watch_latency_ratio")
FAST = (*STRICT, "--set", "max_fallback_rise=1", *(word for name in _LOOSE for word in ("--set", f"{name}=1000")))
"""The same, for rollouts that must succeed even on a busy machine."""
OTHER_PAGES = ("--set", "min_overlap=0", "--set", "max_drift=1")
"""Settings of rollouts that change pages on purpose."""
_KILLER = Path(__file__).with_name("apply_killer.py")


@dataclass
class RolloutOutcome:
    """One command: its exit code, its output, and when it ran (`time.monotonic`)."""

    code: int
    output: str
    began: float
    ended: float


@dataclass
class Bench:
    """A server under traffic, and a build of its own to edit.

    Attributes:
        server: The server.
        source: A copy of the served build.
        folder: For more builds.
        traffic: The clients that send requests.
        tags: Generation -> prefix of its product ids.
    """

    server: Server
    source: Path
    folder: Path
    traffic: ApplyTraffic
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> StateFolder:
        return self.server.state

    @property
    def server_description(self) -> RunningServer:
        return find_server(port=self.server.grpc_port)

    @property
    def standing(self) -> Standing:
        return self.state.journal.standing()

    def run(self, command: str, *arguments: str, kill: tuple[str, str] | None = None) -> RolloutOutcome:
        """`endcap COMMAND` on this server; with `kill`, its process is killed before or after a step."""
        began = time.monotonic()
        program = ["-P", "-m", "endcap_client.cli"] if kill is None else ["-P", str(_KILLER), *kill]
        words = [sys.executable, *program, command, *arguments, "--grpc-port", str(self.server.grpc_port)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return RolloutOutcome(done.returncode, done.stdout + done.stderr, began, time.monotonic())

    def apply(self, source: Path, *arguments: str, kill: tuple[str, str] | None = None) -> RolloutOutcome:
        """`endcap apply --from SOURCE`."""
        return self.run("apply", "--from", str(source), *arguments, kill=kill)

    def answers(self) -> list[tuple[str, ...]]:
        """The products of some fixed requests."""
        with Client(self.server.grpc_address, timeout_s=TIMEOUT_S) as client:
            return [ask(client, self.traffic.store, number).products for number in range(12)]

    def loaded(self) -> set[str]:
        """Names of the models that have a process."""
        return set(self.processes())

    def processes(self) -> dict[str, int]:
        """Model -> process id, for models that have exactly one process."""
        process = self.server.process
        return {name: pid for pid, name in model_processes(process.pid).items()} if process is not None else {}

    def memory_mb(self) -> dict[str, int]:
        """MB of the server and its models; shared pages are counted once."""
        process = self.server.process
        return memory_mb(process.pid) if process is not None else {}


def memory_mb(server: int) -> dict[str, int]:
    """MB (PSS) of a server's process ("server") and of each of its models, under its name in the build."""
    found: dict[str, int] = {}
    for process, name in {server: "server", **model_processes(server)}.items():
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        taken = next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) // 1024
        found[base_name(name)] = found.get(base_name(name), 0) + taken
    return found


@contextmanager
def bench(build: Path, clients: int = 3, new_every: int = 0, pause_s: float = 0.02) -> Iterator[Bench]:
    """A server on a build, under constant requests; see `ApplyTraffic`."""
    folder = Path(tempfile.mkdtemp(prefix=".apply-", dir=build.parent))
    try:
        source = copy_build(build, folder / "source")
        store = ItemStore.open(source)
        options = ServerOptions(build=source, grpc_port=0, http_port=0, metrics_port=0)
        with (
            Server(options) as server,
            ApplyTraffic(server.grpc_address, store, clients, new_every, pause_s) as traffic,
        ):
            wait_until(lambda: len(traffic.seen) > 10 or traffic.failed)
            yield Bench(server, source, folder, traffic)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(condition: Any, timeout_s: float = 300.0) -> None:
    """Wait until a condition holds."""
    ends = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {timeout_s:g} s")
        time.sleep(0.05)
