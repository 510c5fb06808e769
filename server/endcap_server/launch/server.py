"""One tritonserver process on one build: start, wait until ready, stop without leaving anything behind.

It reads its own model repository (`generations.start`), which `endcap apply` changes while it runs.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from endcap_server.exposures.record import FOLDER as EXPOSURES
from endcap_server.exposures.record import FOLDER_VARIABLE as EXPOSURES_VARIABLE
from endcap_server.exposures.record import SECRET_FILE, SECRET_VARIABLE
from endcap_server.generations.start import prepare, state_folder
from endcap_server.launch.command_line import hide_argument
from endcap_server.launch.health import Health
from endcap_server.launch.installation import Installation, find_installation
from endcap_server.launch.listening import check_address, free_ports, joined, loopback_beside
from endcap_server.launch.options import ServerOptions
from endcap_server.launch.server_log import ServerLog
from endcap_server.launch.watchdog import CONTROL_TIMEOUT_S, Watchdog
from endcap_server.models import ENGINES, ENSEMBLES
from endcap_server.prepared.stores import FOLDER as PREPARED
from endcap_server.prepared.stores import FOLDER_VARIABLE as PREPARED_VARIABLE
from endcap_server.serving.access import connect, ensure_key, headers, key_file_of, restriction_flags
from endcap_server.serving.control import Control
from endcap_server.serving.errors import ApplyError, LaunchError
from endcap_server.serving.generation import Generation
from endcap_server.serving.running import PREFIX, RunningServer
from endcap_server.serving.threads import model_threads
from endcap_server.shop.facts import FOLDER as FACTS
from endcap_server.shop.facts import FOLDER_VARIABLE
from endcap_server.stages.run_folder import DRAINING

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient

_SHM = Path("/dev/shm")
_ARGUMENTS_READ = "loading: "
"""Logged when the server has read its options and before it loads models."""


class Server:
    """A running server; a context manager that starts and stops it.

    Raises:
        LaunchError: on entering, if the build is missing, a port is in use, the options open too much, other users can
            read the control key, or the server does not become ready.
    """

    def __init__(self, options: ServerOptions, report: Callable[[str], None] = lambda line: None) -> None:
        """Check the build and the ports.

        Args:
            options: Build and options.
            report: Called with one line for each model that was loaded again because its process had died.
        """
        self.options, self._report = options, report
        self._watchdog: Watchdog | None = None
        self.repository = options.build.resolve() / "repository"
        if not (self.repository / "storefront" / "config.pbtxt").exists():
            raise LaunchError(
                f"no model repository in {options.build}: expected {options.build}/repository; "
                f"build one with `endcap build --catalogue DIR --out {options.build}`"
            )
        check_address(options.address, options.tls, options.plaintext, options.restricted)
        if options.tls is not None:
            options.tls.check()
        self.installation: Installation = find_installation(options.python)
        self._http_host = loopback_beside(options.address, options.tls)
        self._metrics_host = options.metrics_address or self._http_host
        self.grpc_port, self.http_port, self.metrics_port, *others = free_ports(
            (options.address, options.grpc_port, "--grpc-port"),
            (self._http_host, options.http_port, "--http-port"),
            (self._metrics_host, options.metrics_port, "--metrics-port"),
            *([] if options.health_port is None else [(options.address, options.health_port, "--health-port")]),
        )
        self.health_address = joined(options.address, others[0]) if others else ""
        """host:port of the health checks; "" without."""
        self._health = Health(options.address, others[0], self._is_ready) if others else None
        self.log = ServerLog(options.build / "logs" / f"server-{self.grpc_port}.log")
        self.state = state_folder(options.build, self.grpc_port)
        self.facts = (options.facts or options.build / FACTS).resolve()
        """Folder of the facts; all generations read it."""
        self.exposures = (options.exposures or options.build / EXPOSURES).resolve()
        """Folder of the records of what was shown; all generations write to it."""
        self.generation: Generation | None = None
        """The generation of its last start."""
        self._run_folder: Path | None = None
        self._shm_prefix = ""
        self._key_file = options.key_file or key_file_of(options.build)
        self.control_key = ensure_key(self._key_file) if options.restricted else ""
        """The control key; "" if control calls need none."""
        self._exposures_secret = options.build.resolve() / SECRET_FILE
        ensure_key(self._exposures_secret)
        self.process: subprocess.Popen[bytes] | None = None
        self._started_before = False

    @property
    def grpc_address(self) -> str:
        """host:port of the gRPC service."""
        return joined(self.options.address, self.grpc_port)

    @property
    def http_address(self) -> str:
        """host:port of the HTTP service."""
        return joined(self._http_host, self.http_port)

    @property
    def metrics_address(self) -> str:
        """host:port of the metrics."""
        return joined(self._metrics_host, self.metrics_port)

    @property
    def control_headers(self) -> dict[str, str]:
        """Headers of control calls, for both protocols."""
        return headers(self.control_key)

    def control(self) -> "InferenceServerClient":
        """Triton's own gRPC client with the control key, a context manager; over TLS use :func:`access.connect`."""
        return connect(self.grpc_address, self.control_key)

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if not self.options.grpc_port:  # nobody needs the state of a random port
            shutil.rmtree(self.state.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the process and wait until both ensembles and all engines are ready."""
        self.generation = self._prepare()
        self._run_folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._shm_prefix = f"{self._run_folder.name}_"
        backends = self.installation.link_python_backend(self._run_folder / "backends")
        folders = {"ENDCAP_RUN_DIR": str(self._run_folder), FOLDER_VARIABLE: str(self.facts)}
        folders |= {EXPOSURES_VARIABLE: str(self.exposures), SECRET_VARIABLE: str(self._exposures_secret)}
        # Not that of a generation's own files: `endcap prepare` writes while the server runs.
        folders |= {PREPARED_VARIABLE: str(self.options.build.resolve() / PREPARED)}
        environment = self.installation.environment() | folders
        with self.log.open() as log:
            self._started_before = True
            # Its own session, so that Ctrl-C reaches only the launcher, which stops the server properly.
            self.process = subprocess.Popen(
                self._command(backends),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._hide_key()
            self._wait_until_ready()
            if self._health is not None:
                self._health.start()
        except BaseException:
            self.stop()
            raise
        self._describe(self._run_folder)
        if self.options.revive:
            control = Control(self.http_address, self.control_headers, CONTROL_TIMEOUT_S)
            self._watchdog = Watchdog(self.process.pid, control, self.state.answering, self._report)
            self._watchdog.start()

    def drain(self) -> None:
        """Answer health checks as not ready and refuse new requests as UNAVAILABLE, while those in flight end.

        This takes `drain_s` seconds. Call it before :meth:`stop`, which resets connections at once. Triton 24.10 cannot
        report "not ready" while it still answers, so only `health_address` does.
        """
        if self.process is None or self.process.poll() is not None or self._run_folder is None:
            return
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._health is not None:
            self._health.draining = True
        (self._run_folder / DRAINING).touch()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(self.options.drain_s)

    def stop(self, grace_s: float = 20.0) -> None:
        """Send SIGTERM, then SIGKILL to the rest of its session; remove its files and shared memory."""
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
        if self._health is not None:
            self._health.stop()
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
        """Wait for the end of the server process; returns its exit status."""
        if self.process is None:
            raise LaunchError("the server is not running")
        return self.process.wait()

    def _is_ready(self) -> bool:
        return Control(self.http_address).is_ready()

    def _prepare(self) -> Generation:
        """Write the model repository; when the server starts again, the live generation stays live."""
        options, again = self.options, self._started_before
        if not again and not options.grpc_port:
            shutil.rmtree(self.state.folder, ignore_errors=True)
        try:
            return prepare(self.state, options.build, options.profile, again=again, as_built=options.as_built)
        except ApplyError as error:
            raise LaunchError(f"{error}; `endcap serve --as-built` serves {options.build} as it is") from None

    def _describe(self, run_folder: Path) -> None:
        """Describe the server for `endcap apply` and similar commands."""
        if self.process is None:
            return
        RunningServer(
            process=self.process.pid,
            grpc=self.grpc_address,
            http=self.http_address,
            build=str(self.options.build.resolve()),
            state=str(self.state.folder),
            run_folder=str(run_folder),
            key_file=str(self._key_file.resolve()) if self.control_key else "",
            facts=str(self.facts),
            exposures=str(self.exposures),
            metrics=self.metrics_address,
        ).describe()

    def _models(self) -> list[str]:
        """Names of the models to load; ensembles load their stages."""
        names = self.generation.models if self.generation is not None else {}
        return [*(names.get(engine, engine) for engine in ENGINES), *ENSEMBLES]

    def _command(self, backends: Path) -> list[str]:
        options, installation = self.options, self.installation
        command = [
            str(installation.binary),
            f"--model-repository={self.state.models}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
            # Each call of an engine by a stage occupies one of these threads, and each answer for a moment.
            f"--backend-config=python,thread-pool-size={model_threads()}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in self._models()),
            "--disable-auto-complete-config",
            # A model on trial that does not load must not make the server unready.
            "--strict-readiness=false",
            "--exit-timeout-secs=10",
            f"--grpc-address={options.address}",
            f"--http-address={self._http_host}",
            f"--metrics-address={self._metrics_host}",
            f"--grpc-port={self.grpc_port}",
            f"--http-port={self.http_port}",
            f"--metrics-port={self.metrics_port}",
            f"--log-verbose={1 if options.verbose else 0}",
        ]
        if options.profile != "cpu":
            command.append(f"--model-config-name={options.profile}")
        command += restriction_flags(self.control_key)
        command += options.tls.flags() if options.tls else []
        optional = {
            "--allow-sagemaker": "false",
            "--allow-vertex-ai": "false",
            "--http-max-input-size": str(8 << 20),
            "--pinned-memory-pool-byte-size": "0" if options.profile == "cpu" else str(256 << 20),
        }
        command += [f"{flag}={value}" for flag, value in optional.items() if flag in installation.flags]
        return command

    def _hide_key(self, patience_s: float = 5.0) -> None:
        """Remove the key from the server's command line as soon as the server has read it."""
        until = time.monotonic() + patience_s
        while self.control_key and self.process is not None and self.process.poll() is None:
            if _ARGUMENTS_READ in self.log.text():
                if not hide_argument(self.process.pid, self.control_key):
                    self._report("the control key stays on the server's command line: the kernel lets nobody change it")
                return
            if time.monotonic() > until:
                self._report(
                    "the control key stays on the server's command line: the server did not say it has read it"
                )
                return
            time.sleep(0.002)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.options.ready_timeout_s
        waiting, control = ["", *self._models()], Control(self.http_address)
        while waiting:
            if self.process is None or self.process.poll() is not None:
                raise LaunchError(f"the server stopped while loading: {self.log.reason()} (whole log: {self.log.path})")
            if time.monotonic() > deadline:
                name = waiting[0] or "the server"
                raise LaunchError(
                    f"{name} was not ready within {self.options.ready_timeout_s:.0f} s: {self.log.reason()} "
                    f"(whole log: {self.log.path})"
                )
            waiting = [name for name in waiting if not control.is_ready(name)]
            if waiting:
                time.sleep(0.1)


def _kill_session(leader: int) -> None:
    """Kill stubs that are still running; they are in the server's process group."""
    try:
        os.killpg(leader, signal.SIGKILL)
        while True:
            # As first process of a container, we must reap orphans; elsewhere there are none.
            os.waitpid(-leader, 0)
    except (ProcessLookupError, ChildProcessError):
        return
