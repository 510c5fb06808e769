"""Finds running servers: each launcher describes its server in a file of its private run folder."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from endcap_server.serving.access import headers, read_key
from endcap_server.serving.control import Control
from endcap_server.serving.errors import ApplyError, LaunchError
from endcap_server.serving.generation import StateFolder, write_whole

PREFIX = "endcap-"
_FILE = "server.json"


@dataclass(frozen=True)
class RunningServer:
    """A server that `endcap serve` started and supervises.

    Attributes:
        process: its process id, which is also its group's.
        grpc: HOST:PORT of its gRPC service.
        http: HOST:PORT of its HTTP service.
        build: the build that it was started on.
        state: folder of its state, see `StateFolder`.
        run_folder: its private folder.
        key_file: file of its control key; "" if control needs none.
        facts: folder of its facts.
        exposures: folder of its exposures.
        metrics: HOST:PORT of its metrics.
    """

    process: int
    grpc: str
    http: str
    build: str
    state: str
    run_folder: str
    key_file: str
    facts: str
    exposures: str
    metrics: str = ""

    def describe(self) -> None:
        """Write the file that :func:`find_server` reads."""
        write_whole(Path(self.run_folder) / _FILE, json.dumps(asdict(self)) + "\n")

    @property
    def control(self) -> Control:
        """Its model control; raises ApplyError if the key cannot be read."""
        try:
            return Control(self.http, headers(read_key(Path(self.key_file))) if self.key_file else {})
        except LaunchError as error:
            raise ApplyError(str(error)) from None

    @property
    def state_folder(self) -> StateFolder:
        """Its state on disk."""
        return StateFolder(Path(self.state))

    @property
    def is_alive(self) -> bool:
        """Whether its process still runs."""
        try:
            return Path(f"/proc/{self.process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False


def running_servers() -> list[RunningServer]:
    """This user's servers, as their launchers describe them."""
    found = []
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{_FILE}")):
        try:
            # A folder of another user in a shared place could name any server.
            if path.stat().st_uid != os.getuid() or path.parent.stat().st_uid != os.getuid():
                continue
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            server = RunningServer(**values)
        except (OSError, ValueError, TypeError):
            continue
        if server.is_alive:
            found.append(server)
    return found


def find_server(build: Path | None = None, port: int | None = None) -> RunningServer:
    """Find the one server that matches.

    Args:
        build: The build that it was started on; None: any.
        port: Its gRPC port; None: any.

    Raises:
        ApplyError: there is none, or several.
    """
    servers = running_servers()
    meant = [
        each
        for each in servers
        if (build is None or Path(each.build) == build.resolve())
        and (port is None or each.grpc.rpartition(":")[2] == str(port))
    ]
    if len(meant) == 1:
        return meant[0]
    there = "; ".join(f"{each.build} on {each.grpc}" for each in servers) or "none"
    if not meant:
        raise ApplyError(
            f"no such server runs here; running: {there}. Start one with `endcap serve`, on this machine and as this "
            "user"
        )
    raise ApplyError(f"several servers run: {there}; choose one with --build or --grpc-port")
