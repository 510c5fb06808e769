"""Finds the tritonserver binary, the Python backend and libpython of an environment.

The `nvidia-pytriton` wheel contains a complete server; endcap runs its binary, not its API. NVIDIA's containers, which
the GPU profile needs, have the server in /opt/tritonserver, with a stub for the system's Python. The Python backend
starts a stub for the first `python3` on PATH, so this must be the environment with the models' packages.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from endcap_server.serving.errors import LaunchError

CONTAINER = Path("/opt/tritonserver")
_PROBE = """
import importlib.util, json, pathlib, sys, sysconfig
spec = importlib.util.find_spec("pytriton")
print(json.dumps({
    "pytriton": str(pathlib.Path(spec.origin).parent) if spec else None,
    "endcap": importlib.util.find_spec("endcap_server") is not None,
    "libdir": sysconfig.get_config_var("LIBDIR"),
    "libpython": sysconfig.get_config_var("INSTSONAME") or "",
    "shared": bool(sysconfig.get_config_var("Py_ENABLE_SHARED")),
    "version": f"{sys.version_info[0]}.{sys.version_info[1]}",
}))
"""


@dataclass(frozen=True)
class Installation:
    """A serving environment: the paths that starting a server needs."""

    python: Path
    server: Path
    """The server's folder, with `bin` and `backends`."""
    stub: Path
    libraries: tuple[Path, ...]
    """Folders of libpython and of the server's bundled libraries, for LD_LIBRARY_PATH."""

    @property
    def binary(self) -> Path:
        """The tritonserver program."""
        return self.server / "bin" / "tritonserver"

    @cached_property
    def flags(self) -> str:
        """The program's help text, from which the supported flags are read."""
        done = subprocess.run(
            [self.binary, "--help"], env=self.environment(), capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    def environment(self) -> dict[str, str]:
        """Environment variables for the server process."""
        inherited = os.environ.get("LD_LIBRARY_PATH", "")
        libraries = [str(path) for path in self.libraries] + ([inherited] if inherited else [])
        return {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(libraries),
            "PATH": f"{self.python.parent}:{os.environ.get('PATH', '')}",
            "PYTHONUNBUFFERED": "1",
            # Without a locale, Python reads text files as ASCII.
            "PYTHONUTF8": "1",
            "TOKENIZERS_PARALLELISM": "false",
            # Nine processes share the cores, and threads do not speed up their small matrices.
            "OPENBLAS_NUM_THREADS": "1",
            "GOMP_SPINCOUNT": "10000",
        }

    def link_python_backend(self, folder: Path) -> Path:
        """Create `folder/python` with links, as `--backend-directory` requires, and return `folder`."""
        backend = folder / "python"
        backend.mkdir(parents=True, exist_ok=True)
        sources = [
            self.server / "backends/python/libtriton_python.so",
            self.server / "backends/python/triton_python_backend_utils.py",
            self.stub,
        ]
        for source in sources:
            (backend / source.name).symlink_to(source)
        return folder


def find_installation(python: Path | None = None) -> Installation:
    """The serving environment of `python`, or the one that is found.

    Looks at `python`, else `$ENDCAP_SERVING_PYTHON`, else the running interpreter if it has the server, else
    `.venv-serving` in the working folder and its parents, else the running interpreter inside NVIDIA's container.

    Raises:
        LaunchError: no environment, or it lacks the server, its stub, libpython or endcap itself.
    """
    configured = os.environ.get("ENDCAP_SERVING_PYTHON")
    chosen = python or (Path(configured) if configured else _python_at_hand())
    if not chosen.exists():
        raise LaunchError(f"no Python at {chosen}; run `make setup`, or name the serving environment with --python")
    probe = subprocess.run([chosen, "-c", _PROBE], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        raise LaunchError(f"{chosen} does not run: {probe.stderr.strip().splitlines()[-1:]}; run `make setup` again")
    found = json.loads(probe.stdout)
    if not found["pytriton"] and not _in_container():
        raise LaunchError(f"{chosen} has no tritonserver: `pip install 'endcap[serving]'` there, or run `make setup`")
    if not found["endcap"]:
        raise LaunchError(f"{chosen} lacks the endcap package that the models import; run `make setup`")
    if found["pytriton"]:
        return _installation(chosen, found)
    return Installation(chosen, CONTAINER, CONTAINER / "backends/python/triton_python_backend_stub", ())


def _in_container() -> bool:
    return (CONTAINER / "bin" / "tritonserver").exists()


def _installation(python: Path, found: dict[str, str]) -> Installation:
    package = Path(found["pytriton"])
    server, version = package / "tritonserver", found["version"]
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        known = ", ".join(sorted(path.name for path in stub.parent.parent.iterdir()))
        raise LaunchError(f"the server has no Python backend stub for Python {version}; it has them for {known}")
    libdir = Path(found["libdir"])
    if not list(libdir.glob(f"libpython{version}.so*")):
        raise LaunchError(
            f"no libpython{version}.so in {libdir}: the Python backend needs a Python built with --enable-shared "
            f"(on Debian: apt install libpython{version})"
        )
    return Installation(python, server, stub, (libdir, package.parent / "nvidia_pytriton.libs"))


def _python_at_hand() -> Path:
    candidates = [Path(sys.prefix).parent, Path.cwd(), *Path.cwd().parents]
    running = Path(sys.executable)
    if list(Path(sys.prefix).glob("lib/python*/site-packages/pytriton/tritonserver/bin/tritonserver")):
        return running
    for folder in candidates:
        python = folder / ".venv-serving" / "bin" / "python"
        if python.exists():
            return python
    if _in_container():
        return running
    raise LaunchError("no serving environment (.venv-serving) found; run `make setup`, or name one with --python")
