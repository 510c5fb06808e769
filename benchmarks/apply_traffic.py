"""A constant stream of requests while generations change; each answer is kept with the generation that it names."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from endcap_client import Client, Options
from endcap_client.errors import EndcapError
from endcap_server.shop.store import ItemStore

TIMEOUT_S = 60.0
"""A request that takes longer counts as hanging, even on a busy machine."""


@dataclass(frozen=True)
class Seen:
    """One answer."""

    ensemble: str
    at: float
    """`time.monotonic` when the answer arrived."""
    seconds: float
    generation: str
    models: tuple[str, ...]
    """Names of the models that computed its stages, as the answer states them."""
    versions: tuple[tuple[str, str], ...]
    products: tuple[str, ...]


@dataclass
class ApplyTraffic:
    """Clients that send one request after another, without retries; a context manager that starts and stops them.

    Args:
        address: HOST:PORT of the gRPC service.
        store: Words and products for the requests.
        clients: Number of concurrent clients.
        new_every: One request of so many is new, so that no cache can answer it; 0: none is.
        pause_s: Between an answer and the next request of a client.
    """

    address: str
    store: ItemStore
    clients: int = 3
    new_every: int = 0
    pause_s: float = 0.02
    seen: list[Seen] = field(default_factory=list)
    failed: list[tuple[float, str]] = field(default_factory=list)
    """(`time.monotonic`, error)."""

    def __enter__(self) -> "ApplyTraffic":
        self._stopped, self._may_ask = threading.Event(), threading.Event()
        self._may_ask.set()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self.resume()
        for thread in self._threads:
            thread.join(60)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Send no requests within the context."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def pause(self) -> None:
        """Send no requests until `resume`; returns after a second, so that running ones can end."""
        self._may_ask.clear()
        time.sleep(1.0)

    def resume(self) -> None:
        """Send requests again."""
        self._may_ask.set()

    def latencies(self, begin: float, end: float) -> np.ndarray:
        """Latencies in seconds of the answers that arrived between two moments: float64 [n]."""
        return np.array([each.seconds for each in list(self.seen) if begin <= each.at < end])

    def mixed(self) -> list[str]:
        """Describe the pages that mix generations; empty if there are none.

        All pages of a generation and ensemble come from the same models and state the same versions.
        """
        kinds: dict[tuple[str, str], set[Any]] = defaultdict(set)
        for each in list(self.seen):
            kinds[each.generation, each.ensemble].add((each.models, each.versions))
        return [f"generation {key[0]}, {key[1]}: {sorted(found)}" for key, found in kinds.items() if len(found) > 1]

    def _run(self, number: int) -> None:
        with Client(self.address, options=Options(timeout_s=TIMEOUT_S, retry=None)) as client:
            while not self._stopped.is_set():
                self._may_ask.wait()
                if self._stopped.is_set():
                    return
                number += self.clients
                try:
                    new = self.new_every and number // self.clients % self.new_every == 0
                    self.seen.append(ask(client, self.store, number, new=bool(new)))
                except EndcapError as error:
                    self.failed.append((time.monotonic(), f"{type(error).__name__}: {error}"))
                self._stopped.wait(self.pause_s)


def ask(client: Client, store: ItemStore, number: int, *, new: bool = False) -> Seen:
    """Send request `number`: one of 32 fixed searches and storefronts, or a request that occurs only once if `new`."""
    is_search = number % 2 == 1
    kind = number if new else number % 32
    word, first = store.keywords[kind % len(store.keywords)], 7 * kind
    if new:
        # Texts and histories that differ from all others, because each of these numbers is used once.
        word = f"{word} {store.keywords[kind // 2 % len(store.keywords)]} {kind}"
        first += kind // len(store.product_ids)
    started = time.perf_counter()
    if is_search:
        answer: Any = client.search(word, products=10)
        products = [each.product_id for each in answer.products]
    else:
        history = [store.product_ids[(first + each * (1 + kind // 32)) % len(store.product_ids)] for each in range(3)]
        answer = client.storefront(history=history, placements=2, products=6)
        products = [each.product_id for placement in answer.placements for each in placement.products]
    document = answer.status.document
    return Seen(
        ensemble="search" if is_search else "storefront",
        at=time.monotonic(),
        seconds=time.perf_counter() - started,
        generation=document["versions"]["generation"],
        models=tuple(part["model"] for part in document["stages"].values()),
        versions=tuple(sorted(document["versions"].items())),
        products=tuple(products),
    )
