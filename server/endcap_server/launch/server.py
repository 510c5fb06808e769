"""One tritonserver process on one build: start, wait until ready, stop without leaving anything behind.

It reads a model repository of its own (`apply.start`), which `endcap apply` changes while it runs.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from endcap_server.apply.control import KEY_FILE
from endcap_server.apply.generation import ApplyError, Generation
from endcap_server.apply.running import PREFIX, RunningServer
from endcap_server.apply.start import prepare, state_folder
from endcap_server.launch.installation import Installation, LaunchError, find_installation
from endcap_server.launch.watchdog import ModelControl, Watchdog

ENSEMBLES = ("storefront", "search")
ENGINES = ("nearest", "cross_encoder", "theme_llm", "keyword_llm")
STAGE_THREADS = 128
"""Threads of the server for each stage's calls of engines; as many as the stage has itself (`triton/bls.py`)."""
_SHM = Path("/dev/shm")
_NOISE = ("CudaDriverHelper has not been", "unable to create stream")
"""What Triton logs as errors at each start without a GPU."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServerOptions:
    """What `endcap serve` can be told. Ports of 0 are picked free."""

    build: Path
    address: str = "127.0.0.1"
    grpc_port: int = 8001
    http_port: int = 8000
    metrics_port: int = 8002
    profile: str = "cpu"
    cache_mb: int = 64
    """Size of Triton's response cache, MB (2**20 bytes)."""
    python: Path | None = None
    ready_timeout_s: float = 120.0
    verbose: bool = False
    revive: bool = True
    """Load models again whose processes have died."""
    as_built: bool = False
    """Serve the build as it is, whatever `endcap apply` has made live before."""


class Server:
    """A running server; a context manager that starts and stops it.

    Raises:
        LaunchError: on entering, when the build is absent, a port is taken, or the server does not get ready.
    """

    def __init__(self, options: ServerOptions, report: Callable[[str], None] = lambda line: None) -> None:
        """Check the build and the ports.

        Args:
            options: What to serve, and how.
            report: Told, in one line each, which models were loaded again because their processes had died.
        """
        self.options, self._report = options, report
        self._watchdog: Watchdog | None = None
        self.repository = options.build.resolve() / "repository"
        if not (self.repository / "storefront" / "config.pbtxt").exists():
            raise LaunchError(
                f"no model repository in {options.build}: expected {options.build}/repository; "
                f"build one with `endcap build --catalogue DIR --out {options.build}`"
            )
        self.installation: Installation = find_installation(options.python)
        self.grpc_port = _free_port(options.address, options.grpc_port, "--grpc-port")
        self.http_port = _free_port(options.address, options.http_port, "--http-port")
        self.metrics_port = _free_port(options.address, options.metrics_port, "--metrics-port")
        self.log = options.build / "logs" / f"server-{self.grpc_port}.log"
        self.state = state_folder(options.build, self.grpc_port)
        self.generation: Generation | None = None
        """What it serves, as of its last start."""
        self._run_folder: Path | None = None
        self._shm_prefix = ""
        self.control_key = ""
        """What loading models asks for, on an address that others reach; made anew at each start."""
        self.process: subprocess.Popen[bytes] | None = None
        self._started_before, self._log_start = False, 0

    @property
    def grpc_address(self) -> str:
        """host:port of the gRPC service."""
        return f"{self.options.address}:{self.grpc_port}"

    @property
    def http_address(self) -> str:
        """host:port of the HTTP service."""
        address = self.options.address
        return f"[{address}]:{self.http_port}" if ":" in address else f"{address}:{self.http_port}"

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if not self.options.grpc_port:  # nobody finds the state of a port that was picked free
            shutil.rmtree(self.state.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the process and wait until both ensembles and all engines answer as ready."""
        self.generation = self._prepare()
        self._run_folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._shm_prefix = f"{self._run_folder.name}_"
        backends = self.installation.link_python_backend(self._run_folder / "backends")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = self.installation.environment() | {"ENDCAP_RUN_DIR": str(self._run_folder)}
        # Starting again keeps what was logged before: it says why.
        with self.log.open("ab" if self._started_before else "wb") as log:
            self._started_before = True
            self._log_start = log.seek(0, os.SEEK_END)
            # Its own session, so that Ctrl-C reaches only the launcher, which then stops the server in order.
            self.process = subprocess.Popen(
                self._command(backends),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        self._describe(self._run_folder)
        if self.options.revive:
            control = ModelControl(self.http_address, self.control_key)
            self._watchdog = Watchdog(self.process.pid, control, self._report)
            self._watchdog.start()

    def stop(self, grace_s: float = 20.0) -> None:
        """SIGTERM, then SIGKILL for what is left of its session; removes its files and shared memory."""
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
        if self.process is not None:
            if self.process.poll() is None:
                self.process.terminate()
                try:
                    self.process.wait(grace_s)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
            _kill_session(self.process.pid)
            self.process = None
        if self._run_folder is not None:
            for region in _SHM.glob(f"{self._shm_prefix}*"):
                region.unlink(missing_ok=True)
            shutil.rmtree(self._run_folder, ignore_errors=True)
            self._run_folder = None

    def wait(self) -> int:
        """Block until the server process ends; its exit status."""
        if self.process is None:
            raise LaunchError("the server is not running")
        return self.process.wait()

    def _prepare(self) -> Generation:
        """Write the model repository to serve: what is live stays so when the server starts again."""
        options, again = self.options, self._started_before
        if not again and not options.grpc_port:
            shutil.rmtree(self.state.folder, ignore_errors=True)
        try:
            return prepare(self.state, options.build, options.profile, again=again, as_built=options.as_built)
        except ApplyError as error:
            raise LaunchError(f"{error}; `endcap serve --as-built` serves {options.build} as it is") from None

    def _describe(self, run_folder: Path) -> None:
        """Tell `endcap apply` and its like where the server is."""
        if self.process is None:
            return
        if self.control_key:
            with open(run_folder / KEY_FILE, "w", encoding="utf-8", opener=_private) as file:
                file.write(self.control_key)
        RunningServer(
            process=self.process.pid,
            grpc=self.grpc_address,
            http=self.http_address,
            build=str(self.options.build.resolve()),
            state=str(self.state.folder),
            run_folder=str(run_folder),
        ).describe()

    def _models(self) -> list[str]:
        """Names of the models to load; the stages come with the ensembles."""
        names = self.generation.models if self.generation is not None else {}
        return [*(names.get(engine, engine) for engine in ENGINES), *ENSEMBLES]

    def _command(self, backends: Path) -> list[str]:
        options, installation = self.options, self.installation
        command = [
            str(installation.binary),
            f"--model-repository={self.state.models}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
            # A stage's calls of engines each hold one of these threads, and so does the stage's answer for a moment.
            f"--backend-config=python,thread-pool-size={STAGE_THREADS}",
            f"--cache-directory={installation.caches}",
            f"--cache-config=local,size={options.cache_mb << 20}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in self._models()),
            "--disable-auto-complete-config",
            # A model on trial that fails to load must not make load balancers leave a server that answers.
            "--strict-readiness=false",
            "--exit-timeout-secs=10",
            f"--grpc-address={options.address}",
            f"--http-address={options.address}",
            f"--metrics-address={options.address}",
            f"--grpc-port={self.grpc_port}",
            f"--http-port={self.http_port}",
            f"--metrics-port={self.metrics_port}",
            f"--log-verbose={1 if options.verbose else 0}",
        ]
        if options.profile != "cpu":
            command.append(f"--model-config-name={options.profile}")
        if options.address not in _LOOPBACK:
            # Whoever reaches the ports may ask for pages, but not load models or map memory.
            self.control_key = secrets.token_hex(16)
            restricted = f"model-repository,shared-memory,trace,logging:endcap-key={self.control_key}"
            command.append(f"--grpc-restricted-protocol={restricted}")
            command.append(f"--http-restricted-api={restricted}")
        optional = {
            "--allow-sagemaker": "false",
            "--allow-vertex-ai": "false",
            "--http-max-input-size": str(8 << 20),
            "--pinned-memory-pool-byte-size": "0" if options.profile == "cpu" else str(256 << 20),
        }
        command += [f"{flag}={value}" for flag, value in optional.items() if flag in installation.flags]
        return command

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.options.ready_timeout_s
        waiting = ["", *self._models()]
        while waiting:
            if self.process is None or self.process.poll() is not None:
                raise LaunchError(f"the server stopped while loading: {self.reason()} (whole log: {self.log})")
            if time.monotonic() > deadline:
                name = waiting[0] or "the server"
                raise LaunchError(
                    f"{name} was not ready within {self.options.ready_timeout_s:.0f} s: {self.reason()} "
                    f"(whole log: {self.log})"
                )
            waiting = [name for name in waiting if not self._is_ready(name)]
            if waiting:
                time.sleep(0.1)

    def _is_ready(self, model: str) -> bool:
        path = f"v2/models/{model}/ready" if model else "v2/health/ready"
        try:
            with urllib.request.urlopen(f"http://{self.http_address}/{path}", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def reason(self) -> str:
        """The first error lines that this start logged: what Triton says before it gives up."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("E") and "] " in line]
        errors = [line.split("] ", 1)[1].strip('"') for line in errors]
        errors = [line for line in errors if not line.startswith(_NOISE)]
        known = [line for line in errors if "failed to load" in line or "Error" in line or "rror:" in line]
        return " | ".join((known or errors or lines[-1:])[:2]) or "no log"


def _free_port(address: str, port: int, option: str) -> int:
    """`port` if it is free (0: any free one). Checked by us because gRPC would share a taken port in silence."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            why = error.strerror or str(error)
            raise LaunchError(f"cannot listen on {address}:{port} ({why}); choose another {option}") from None
        return int(probe.getsockname()[1])


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _kill_session(leader: int) -> None:
    """End stubs that outlived the server: they are in its process group."""
    try:
        os.killpg(leader, signal.SIGKILL)
        while True:
            # Orphans are ours to reap where we are a container's first process; elsewhere there are none.
            os.waitpid(-leader, 0)
    except (ProcessLookupError, ChildProcessError):
        return
