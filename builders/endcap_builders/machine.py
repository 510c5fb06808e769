"""The machine that figures were measured on."""

import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def machine() -> dict[str, Any]:
    """Processor, memory, operating system, and the load of the machine now."""
    cpu_info, flags = _read("/proc/cpuinfo"), _instructions()
    models = [line.partition(":")[2].strip() for line in cpu_info.splitlines() if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [flag for flag in _FLAGS if flag in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def computes_bf16() -> bool:
    """Whether the CPU has instructions for bf16. Others emulate it, several times slower than float32.

    oneDNN's own answer is yes for every CPU with AVX-512.
    """
    return any(flag in _BF16 for flag in _instructions())


@cache
def _instructions() -> list[str]:
    lines = _read("/proc/cpuinfo").splitlines()
    return next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
