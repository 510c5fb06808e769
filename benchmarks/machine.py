"""What a report was measured on: machine, versions, and how busy the machine was with other things."""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

_PACKAGES = (
    "endcap", "tritonclient", "locust", "torch", "transformers", "sentence-transformers", "xgrammar", "faiss-cpu",
    "lightgbm", "openvino", "openvino-genai", "numpy",
)  # fmt: skip
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def machine() -> dict[str, Any]:
    """Processor, memory, operating system, and the load of the machine as the run begins."""
    cpu_info = _read("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in cpu_info.splitlines() if line.startswith("model name")]
    flags = next((line.split() for line in cpu_info.splitlines() if line.startswith("flags")), [])
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [flag for flag in _FLAGS if flag in flags],
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


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


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
