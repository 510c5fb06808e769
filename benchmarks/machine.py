"""Describes the environment of a report: versions, the commit, and the machine's speed during the run."""

import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

_PACKAGES = (
    "endcap", "tritonclient", "locust", "torch", "transformers", "sentence-transformers", "xgrammar", "faiss-cpu",
    "lightgbm", "openvino", "openvino-genai", "numpy",
)  # fmt: skip


def versions(server: str = "") -> dict[str, str]:
    """Versions of Python, the server, and the libraries of the benchmark and the baseline; without absent ones."""
    found = {"python": platform.python_version()} | ({"tritonserver": server} if server else {})
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def revision(folder: Path) -> str:
    """The measured commit, with "+" appended if files differ from it; "" outside a repository."""
    try:
        git = ["git", "-C", str(folder)]
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


def yardstick() -> float:
    """Milliseconds of a fixed piece of work on one thread: a measure of the machine's current speed.

    A run measures it between rounds, so that two reports can be compared even if the machine's speed differed. The work
    contains no matrix products: their threads wait for each other, which takes very long on a busy machine.
    """
    values = np.arange(200_000, dtype=np.float32)
    start = time.perf_counter()
    for _ in range(5):
        np.sort(np.sin(values))
        sum(range(50_000))
    return 1e3 * (time.perf_counter() - start)
