"""What every engine asks of OpenVINO's CPU plugin."""

from typing import Any

PROPERTIES: dict[str, Any] = {
    # The engines of a machine are several processes: pinned threads would pile up on the same cores.
    "ENABLE_CPU_PINNING": False,
    # Kernels are kept for each shape that was met, 5 000 by default: requests bring ever new lengths, and a student of
    # a few million parameters grew past a gigabyte. With 64 it stays at a third of that, as fast (docs/benchmarks.md).
    "CPU_RUNTIME_CACHE_CAPACITY": 64,
}
