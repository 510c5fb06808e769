"""Processes that die, clients that go away: `endcap serve` mends itself, and what nobody waits for is not worked on."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from endcap_client import Client
from endcap_client.errors import EndcapError
from endcap_server.launch import Server
from endcap_server.models import ENGINES, STAGES
from mutations import OUTPUTS, add, packed
from serving import Traffic, assert_flat, in_flight, process_of, sampled
from tritonclient.grpc import InferenceServerClient, service_pb2_grpc
from tritonclient.grpc import service_pb2 as kserve
from waiting import wait_for

from benchmarks.apply_bench import memory_mb


@dataclass
class Served:
    """`endcap serve` as a process of its own, and what it has said so far."""

    launcher: subprocess.Popen[str]
    address: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def server(self) -> int:
        """Process id of tritonserver, 0 while there is none."""
        children = subprocess.run(["pgrep", "-P", str(self.launcher.pid)], capture_output=True, text=True)
        return int((children.stdout.split() or ["0"])[0])

    def said(self, text: str) -> list[str]:
        """The lines with a text."""
        return [line for line in self.lines if text in line]

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something is so; a failure shows what was said."""
        try:
            wait_for(condition, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; said so far:\n{''.join(self.lines)}") from None


@pytest.fixture(scope="module")
def served(build: Path) -> Iterator[Served]:
    command = [sys.executable, "-m", "endcap_client.cli", "serve", "--build", str(build)]
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    launcher = subprocess.Popen([*command, *ports], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    served = Served(launcher)
    assert launcher.stdout is not None
    output = launcher.stdout
    reader = threading.Thread(target=lambda: served.lines.extend(iter(output.readline, "")), daemon=True)
    reader.start()
    try:
        wait_for(lambda: served.said("endcap serves") or launcher.poll() is not None, "the server is ready")
        served.address = served.lines[0].split("grpc ")[1].split(",")[0]
        yield served
    finally:
        launcher.send_signal(signal.SIGTERM)
        launcher.wait(60)
        reader.join(10)
        output.close()


@pytest.mark.parametrize("engine", sampled(tuple(ENGINES)))
def test_killed_engine(served: Served, new_history: Callable[[], list[str]], engine: str) -> None:
    killed, restarts = process_of(served.server, engine), len(served.said("started it again"))
    assert killed is not None

    def revived() -> bool:
        return bool(served.said(f"the process of {engine} died; loaded it again"))

    def restarted() -> bool:
        # Seldom the server ends with it (seen once, on another machine), which is the launcher's to mend.
        return len(served.said("started it again")) > restarts

    def ask(client: Client, number: int) -> object:
        return client.storefront(new_history(), placements=2, budget_ms=1500)

    with Traffic(served.address, 2, ask) as traffic:
        wait_for(lambda: traffic.answers, "pages")
        os.kill(killed, signal.SIGKILL)
        answered = len(traffic.answers)
        wait_for(lambda: len(traffic.answers) > answered + 2, "pages without the engine")
        served.wait_for(lambda: revived() or restarted(), f"{engine} is back")
    assert len(traffic.errors) <= 2 or restarted(), "at most the requests in flight fail"
    assert process_of(served.server, engine) not in (None, killed)
    with Client(served.address, timeout_s=20) as client:
        wait_for(
            lambda: not client.storefront(new_history(), placements=1).status.degraded,
            "pages that are not degraded",
        )


@pytest.mark.parametrize("stage", sampled(tuple(STAGES)))
def test_killed_stage(served: Served, new_history: Callable[[], list[str]], stage: str) -> None:
    killed = process_of(served.server, stage)
    assert killed is not None
    with Traffic(served.address, 2, lambda client, _: client.storefront(new_history(), placements=1)) as traffic:
        wait_for(lambda: traffic.answers, "pages")
        os.kill(killed, signal.SIGKILL)
        _service_resumes(served.address)
    wait_for(lambda: process_of(served.server, stage) not in (None, killed), f"a new process of {stage}")


def test_killed_server(served: Served) -> None:
    killed, address = served.server, served.address
    os.kill(killed, signal.SIGKILL)
    _service_resumes(address)
    wait_for(lambda: served.said("the server was killed by signal 9; started it again"), "a line about it")
    assert served.server not in (0, killed)
    wait_for(lambda: not _living(killed), "no process of the old server is left")


def _living(group: int) -> list[str]:
    """Processes of a group that still run. Of one that has ended, its entry stays where nobody reaps orphans: in a
    container whose first process is not an init.
    """
    states = subprocess.run(["ps", "-eo", "pgid=,stat=,pid="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in states.splitlines()]
    return [pid for pgid, stat, pid in rows if int(pgid) == group and not stat.startswith("Z")]


def _service_resumes(address: str) -> None:
    """An answer that was asked for after the fault, from a connection made after it."""

    def answered() -> bool:
        try:
            with Client(address, timeout_s=2) as client:
                return bool(client.search("lamp", products=2).products)
        except EndcapError:
            return False

    time.sleep(0.3)
    wait_for(answered, "answers again")


def test_cancelled_requests_leave_no_work(server: Server, new_history: Callable[[], list[str]]) -> None:
    assert server.process is not None

    def cancel_many() -> None:
        with grpc.insecure_channel(server.grpc_address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda number: _ask_and_cancel(stub, new_history(), 0.05 * (number % 8)), range(40)))

    with server.control() as control, Client(server.grpc_address, timeout_s=20) as client:
        cancel_many()
        wait_for(lambda: _idle(control), "engines that work on nothing")
        before = memory_mb(server.process.pid)
        cancel_many()
        wait_for(lambda: _idle(control), "engines that work on nothing")
        # Entries of requests that were cancelled before `rerank` are forgotten after a while.
        wait_for(lambda: in_flight(client) == 1, "nothing in flight but the request that asks")
        # Of any shopper: what a small model writes for one may all be refused.
        wait_for(
            lambda: not client.storefront(new_history(), placements=2).status.degraded, "a page that lacks nothing"
        )
    assert_flat(before, memory_mb(server.process.pid))


def _ask_and_cancel(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, history: list[str], after_s: float
) -> grpc.StatusCode:
    request = kserve.ModelInferRequest(model_name="storefront")
    add(request, "HISTORY", "BYTES", [len(history)], packed([each.encode() for each in history]))
    add(request, "BUDGET_MS", "INT32", [1], (20_000).to_bytes(4, "little"))
    for name in OUTPUTS["storefront"]:
        request.outputs.add(name=name)
    call = stub.ModelInfer.future(request)
    time.sleep(after_s)
    call.cancel()
    code: grpc.StatusCode = call.code()
    return code


def _idle(control: InferenceServerClient) -> bool:
    """Whether no model finishes anything for half a second."""

    def finished() -> list[int]:
        statistics = control.get_inference_statistics(as_json=True)["model_stats"]
        return [int(each["inference_stats"].get("success", {}).get("count", 0)) for each in statistics]

    first = finished()
    time.sleep(0.5)
    return finished() == first
