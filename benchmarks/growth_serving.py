"""Serves several builds side by side for `bench_growth`: requests go to them by turns, under equal conditions."""

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from endcap_client import Client, Page, SearchResult
from endcap_server.launch import Server, ServerOptions
from endcap_server.serving.model_repository import write
from rich.console import Console
from rich.progress import track

from benchmarks.processes import ProcessTree
from benchmarks.replay import Replay, ReplayedRequest

_SEARCHES, _PAGES, _WARM = 120, 60, 12
_TIMEOUT_S, _BUDGET_MS = 60.0, 20_000
"""A long budget, so that a slow machine leaves no work out: the time of a page that is cut short does not grow."""


class _Memory(threading.Thread):
    """Watches the most memory of a server's processes, MB; pages that they share are counted once."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._tree, self._ended = ProcessTree(pid), threading.Event()
        self.most_mb, self.of_most = 0.0, dict[str, float]()

    def run(self) -> None:
        while not self._ended.wait(2.0):
            used = {name: use.pss_mb for name, use in self._tree.use().items()}
            if sum(used.values()) > self.most_mb:
                self.most_mb, self.of_most = sum(used.values()), used

    def stop(self) -> None:
        """End it."""
        self._ended.set()
        self.join()


class _Kind:
    """Times of one kind of requests to one server; the first of them warm it up."""

    def __init__(self) -> None:
        self.took: list[float] = []
        self.stages: dict[str, list[float]] = {}
        self.degraded = 0
        self.causes = Counter[str]()

    def add(self, ms: float, answer: SearchResult | Page) -> None:
        self.took.append(ms)
        self.degraded += bool(answer.status.degraded)
        for name in answer.status.degraded:
            for cause in answer.status.document["stages"][name].get("causes", ()):
                self.causes[f"{name}: {cause['engine']} {cause['cause']}".strip()] += 1
        for name, stage in answer.status.stages.items():
            self.stages.setdefault(name, []).append(stage.ms)

    def figures(self, name: str) -> dict[str, Any]:
        return {
            f"{name}_p50_ms": round(float(np.median(self.took[_WARM:])), 2),
            f"{name}_p95_ms": round(float(np.percentile(self.took[_WARM:], 95)), 2),
            f"{name}_degraded": self.degraded,
            f"{name}_causes": dict(self.causes),
            f"{name}_stages_p50_ms": {
                stage: round(float(np.median(values[_WARM:])), 2) for stage, values in self.stages.items()
            },
        }


def serve_side_by_side(folders: Mapping[int, Path], console: Console) -> dict[int, dict[str, Any]]:
    """Latency of searches and pages that no cache has, one after another, and memory of all processes, by size.

    Args:
        folders: Of each size: ``catalogue/`` and ``build/``, whose repository is written anew.
        console: For progress bars.
    """
    figures: dict[int, dict[str, Any]] = {}
    clients: dict[int, Client] = {}
    memories: dict[int, _Memory] = {}
    with ExitStack() as stack:
        for size, folder in folders.items():
            repository = folder / "build" / "repository"
            write(repository)
            for model in repository.iterdir():
                (model / "1").mkdir(exist_ok=True)
            started = time.monotonic()
            options = ServerOptions(build=folder / "build", grpc_port=0, http_port=0, metrics_port=0)
            server = stack.enter_context(Server(options))
            clients[size] = stack.enter_context(Client(server.grpc_address, timeout_s=_TIMEOUT_S))
            figures[size] = {"start_s": round(time.monotonic() - started, 1)}
            memories[size] = _Memory(server.process.pid if server.process else os.getpid())
            memories[size].start()
        replays = {size: Replay(folder / "catalogue", 11) for size, folder in folders.items()}
        for name, count in (("search", _SEARCHES), ("page", _PAGES)):
            kinds = {size: _Kind() for size in folders}
            requests = {
                size: replay.searches(count + _WARM) if name == "search" else replay.storefronts(count + _WARM)
                for size, replay in replays.items()
            }
            for number in track(range(count + _WARM), description=name, console=console):
                for size, kind in kinds.items():
                    begun = time.perf_counter()
                    answer = _ask(clients[size], requests[size][number])
                    kind.add(1e3 * (time.perf_counter() - begun), answer)
            for size, kind in kinds.items():
                figures[size] |= kind.figures(name)
        for size, memory in memories.items():
            memory.stop()
            figures[size]["memory_mb"] = round(memory.most_mb)
            figures[size]["memory_of_mb"] = {name: round(mb) for name, mb in memory.of_most.items()}
    return figures


def _ask(client: Client, request: ReplayedRequest) -> SearchResult | Page:
    if request.kind == "search":
        return client.search(request.query, history=request.history, budget_ms=_BUDGET_MS)
    return client.storefront(history=request.history, session=request.session, budget_ms=_BUDGET_MS)
