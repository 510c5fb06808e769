"""What a report was measured on: versions, the commit, and how fast the machine was just then."""

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
    """Versions of Python, of the server and of what the benchmark and the baseline run on; absent ones are left out."""
    found = {"python": platform.python_version()} | ({"tritonserver": server} if server else {})
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def revision(folder: Path) -> str:
    """The commit that is measured, with a plus if files differ from it; "" outside a repository."""
    try:
        git = ["git", "-C", str(folder)]
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


def yardstick() -> float:
    """Milliseconds of a fixed piece of work on one thread: how fast the machine is just now.

    Taken between the rounds of a run, it lets two reports be compared although the machine is not equally fast
    in both. No matrix products: their threads wait for each other, and on a busy machine that takes far longer than
    anything else.
    """
    values = np.arange(200_000, dtype=np.float32)
    start = time.perf_counter()
    for _ in range(5):
        np.sort(np.sin(values))
        sum(range(50_000))
    return 1e3 * (time.perf_counter() - start)
