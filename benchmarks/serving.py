"""Finds the running server to measure, or starts a new one."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from endcap_client import Client, EndcapError
from endcap_client.client import DEFAULT_ADDRESS
from endcap_server.launch import Server, ServerOptions, connect
from endcap_server.serving.access import key_file_of, read_key
from tritonclient.grpc import InferenceServerClient

from benchmarks.processes import ProcessTree

TRACE_FILE = "trace.json"


@dataclass(frozen=True)
class Served:
    """A server under measurement; `processes` is None when it runs elsewhere, `traces` when it cannot trace."""

    address: str
    own: bool
    triton: InferenceServerClient
    processes: ProcessTree | None
    traces: Path | None

    @property
    def version(self) -> str:
        """Version of tritonserver."""
        return str(self.triton.get_server_metadata().version)


class TracedServer(Server):
    """A server with traces: the file is set at the start, and traces are off until a request needs one.

    Triton 24.10 writes the files of an ensemble's request as `trace.json.0`, ...: events of the request and of each
    step, with time stamps of the monotonic clock. Calls from a stage to an engine (BLS) are not among them.
    """

    def __init__(self, options: ServerOptions, traces: Path):
        super().__init__(options)
        self._traces = traces

    def _command(self, backends: Path) -> list[str]:
        configs = ("mode=triton", f"triton,file={self._traces}", "level=OFF", "rate=1")
        return [*super()._command(backends), *(f"--trace-config={each}" for each in configs)]


@contextmanager
def served(build: Path, address: str, folder: Path, key_file: Path | None = None) -> Iterator[Served]:
    """The server at `address`; without one, a running server of this build at the usual address, or a new one.

    Args:
        build: The build that is measured.
        address: HOST:PORT of a running server's gRPC port, or "".
        folder: Where a new server writes its traces.
        key_file: File of a running server's control key, needed to read its statistics; None: the build's key.

    Raises:
        LaunchError: A new server does not start, or the key cannot be read.
    """
    if address or _serves(DEFAULT_ADDRESS, build):
        running = address or DEFAULT_ADDRESS
        host, _, port = running.rpartition(":")
        tree = ProcessTree.listening_on(int(port)) if host in ("127.0.0.1", "localhost", "::1") else None
        path = key_file or key_file_of(build)
        with connect(running, read_key(path) if key_file or path.exists() else "") as triton:
            yield Served(running, False, triton, tree, None)
        return
    traces = folder.resolve() / TRACE_FILE
    for old in folder.glob(f"{TRACE_FILE}*"):
        old.unlink()
    with TracedServer(ServerOptions(build=build, grpc_port=0, http_port=0, metrics_port=0), traces) as server:
        pid = server.process.pid if server.process else 0
        with server.control() as triton:
            yield Served(server.grpc_address, True, triton, ProcessTree(pid), traces)


def wait_ready(address: str, timeout_s: float = 30.0) -> None:
    """Wait until both ensembles answer.

    Raises:
        EndcapError: They do not answer in time.
    """
    until = time.monotonic() + timeout_s
    with Client(address, timeout_s=5) as client:
        while not client.ready():
            if time.monotonic() > until:
                raise EndcapError(f"no server with both ensembles answers at {address}; start one with `endcap serve`")
            time.sleep(0.2)


def _serves(address: str, build: Path) -> bool:
    """Whether the server at this address serves exactly this build."""
    from endcap_server.stages.status import read_versions

    try:
        with Client(address, timeout_s=5) as client:
            return client.ready(1) and dict(client.search("a", products=1).status.versions) == read_versions(build)
    except (EndcapError, json.JSONDecodeError):
        return False
