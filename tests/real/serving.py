"""What tests of faults and load share: traffic in the background, and a look at the server's processes."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, TypeVar

import pytest
from endcap_client import Client
from endcap_client.errors import EndcapError, Overloaded
from endcap_server.launch import Server
from endcap_server.models import ENGINES
from endcap_server.serving.processes import model_processes
from waiting import HANGS_S


def sampled(models: Sequence[str]) -> list[Any]:
    """Parameters of a test that kills models: the first one by default, all of them under ``--long``."""
    return [models[0], *(pytest.param(model, marks=pytest.mark.long) for model in models[1:])]


def assert_flat(before: dict[str, int], after: dict[str, int]) -> None:
    """The server and its stages keep their size; engines may still keep kernels for shapes they had not met before."""
    light = set(after) - set(ENGINES)
    assert sum(after[name] for name in light) <= sum(before[name] for name in light) + 48, (before, after)
    assert sum(after.values()) <= 1.35 * sum(before.values()), (before, after)


def start_again(server: Server) -> None:
    """Start a server that has ended by itself, as `endcap serve` does.

    Triton 24.10 aborts where a model's process ends while it holds a lock in shared memory.
    """
    if server.process is not None and server.process.poll() is not None:
        server.stop()
        server.start()


def process_of(server: int, model: str) -> int | None:
    """Process id of a model, None while it has none."""
    return next((process for process, name in model_processes(server).items() if name == model), None)


def in_flight(client: Client) -> int:
    """Requests in flight, with the one that asks; -1 if that one is refused."""
    try:
        return int(client.search("lamp").status.document["stages"]["retrieval"]["in_flight"])
    except EndcapError:
        return -1


Answer = TypeVar("Answer")


@dataclass
class Traffic(Generic[Answer]):
    """Clients that ask one thing after the other; a context manager that starts and stops them."""

    address: str
    clients: int
    ask: Callable[[Client, int], Answer]
    answers: list[Answer] = field(default_factory=list)
    refused: list[Overloaded] = field(default_factory=list)
    errors: list[EndcapError] = field(default_factory=list)

    def __enter__(self) -> "Traffic[Answer]":
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, number: int) -> None:
        with Client(self.address, timeout_s=HANGS_S) as client:
            while not self._stopped.is_set():
                number += self.clients
                try:
                    self.answers.append(self.ask(client, number))
                except Overloaded as error:
                    self.refused.append(error)
                    self._stopped.wait(0.05)
                except EndcapError as error:
                    self.errors.append(error)
                    self._stopped.wait(0.2)
