"""Memory and CPU of the server's processes: tritonserver and the stub of each model."""

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

_MODEL = re.compile(r"/([^/]+)/\d+/model\.py$")


@dataclass(frozen=True)
class ProcessUse:
    """Memory and CPU time of a process."""

    pid: int
    pss_mb: float
    """Proportional set size, MB (2**20 bytes): shared pages are divided among processes, so that sums are correct."""
    cpu_s: float


class ProcessTree:
    """A process and its descendants, with a name for each."""

    def __init__(self, pid: int):
        self._root = psutil.Process(pid)

    @classmethod
    def listening_on(cls, port: int) -> "ProcessTree | None":
        """The tree of this user's process that listens on a port of this machine; None if there is none."""
        for process in psutil.process_iter():
            try:
                connections = process.net_connections("tcp")
            except (psutil.AccessDenied, psutil.NoSuchProcess):
                continue
            if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections):
                return cls(process.pid)
        return None

    def pids(self) -> set[int]:
        """Ids of the processes that exist now."""
        return {process.pid for process in self.processes()}

    def use(self) -> dict[str, ProcessUse]:
        """Memory and CPU time of each process, by name; processes of the same name are numbered."""
        used: dict[str, ProcessUse] = {}
        for process in self.processes():
            try:
                name = name_of(process.cmdline(), process.name())
                memory, times = process.memory_full_info(), process.cpu_times()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            number = sum(other == name or other.startswith(f"{name} ") for other in used)
            name = f"{name} {number + 1}" if number else name
            used[name] = ProcessUse(process.pid, memory.pss / 2**20, times.user + times.system)
        return used

    def processes(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def name_of(command: list[str], fallback: str) -> str:
    """The model that a Python stub runs, or the program's name."""
    for word in command:
        if found := _MODEL.search(word):
            return found[1]
    return fallback


def between(before: Mapping[str, ProcessUse], after: Mapping[str, ProcessUse], seconds: float) -> dict[str, Any]:
    """Memory at the end, and cores used between two moments, of each process and in total."""
    rows = {}
    for name, use in after.items():
        used_s = use.cpu_s - (before[name].cpu_s if name in before else 0.0)
        rows[name] = {"pss_mb": round(use.pss_mb, 1), "cores": round(used_s / seconds, 3) if seconds else 0.0}
    total = {column: round(sum(row[column] for row in rows.values()), 3) for column in ("pss_mb", "cores")}
    return {"processes": rows, "total": total}


class Elsewhere:
    """CPU use of processes outside the measurement, since this object was created.

    Args:
        server: The server's processes, if they are not children of this process.
    """

    def __init__(self, server: ProcessTree | None = None):
        self._server = server
        self._started = time.monotonic()
        self._busy_s, self._ours_s = _busy_s(), self._own_s()

    def cores(self) -> float:
        """Mean number of cores that other processes used: the machine's CPU time minus ours."""
        passed = time.monotonic() - self._started
        others = (_busy_s() - self._busy_s) - (self._own_s() - self._ours_s)
        return round(max(0.0, others) / passed, 3) if passed else 0.0

    def _own_s(self) -> float:
        this = psutil.Process()
        own = {process.pid: process for process in [this, *this.children(recursive=True)]}
        if self._server is not None:
            own |= {process.pid: process for process in self._server.processes()}
        spent = 0.0
        for process in own.values():
            with suppress(psutil.NoSuchProcess):
                # Include children that have ended: the load generator's time must not count as that of others.
                spent += sum(process.cpu_times()[:4])
        return spent


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)
