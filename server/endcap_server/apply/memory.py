"""Estimates the memory of a second generation beside the live one, and the memory that is available."""

from dataclasses import dataclass
from pathlib import Path

from endcap_server.serving.generation import Generation
from endcap_server.serving.processes import model_processes

_KB = 1024
_GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""For both versions of control groups: files of limit, usage, and the part of the usage that can be reclaimed."""


@dataclass(frozen=True)
class MemoryNeed:
    """MB that are needed while both generations are loaded, and MB that are available."""

    needed_mb: int
    available_mb: int


def memory_need(
    process: int, generation: Generation, live: Generation, snapshot: Path, live_snapshot: Path
) -> MemoryNeed:
    """Estimate from the live processes: a model needs what its live one uses, times the growth of the build's files.

    Args:
        process: The server's process id.
        generation: Which models are loaded beside the live ones.
        live: The live generation.
        snapshot: The generation's files.
        live_snapshot: The live generation's.
    """
    taken = _resident_mb(process)
    mean = sum(taken.values()) / max(len(taken), 1)
    old, new = _size(live_snapshot), _size(snapshot)
    growth = max(1.0, new / old) if old else 1.0
    needed = 0.0
    for model in generation.models:
        if generation.owners[model] == generation.number and model not in generation.public:
            needed += taken.get(live.models.get(model, ""), mean) * growth
    return MemoryNeed(round(needed), _available_mb())


def _resident_mb(process: int) -> dict[str, float]:
    """Model's name in the server -> MB of its process (proportional set size)."""
    found = {}
    for each, name in model_processes(process).items():
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        found[name] = next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0) / _KB
    return found


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _available_mb() -> int:
    """MB that are available without swapping, also within the control group."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    found = [next(int(line.split()[1]) // _KB for line in lines if line.startswith("MemAvailable:"))]
    for folder, most, used, cached in _GROUPS:
        try:
            limit = int((folder / most).read_text(encoding="utf-8"))
            taken = int((folder / used).read_text(encoding="utf-8"))
            statistics = dict(
                line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
            )
            found.append((limit - taken + int(statistics[cached])) >> 20)
        except (OSError, ValueError, KeyError):  # no such group, or no limit
            continue
    return min(found)
