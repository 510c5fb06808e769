"""Proves exposures under faults: every page is answered, what is written is whole, each loss is counted.

    python -m benchmarks.exposures --build build/test [--pages 10000] [--clients 2] [--part PART ...]
    python -m benchmarks.exposures [--pages 10000] [--rate 400] [--part PART ...]

With a build, each part starts a server, and clients ask for pages and searches in turns. Without one, a process opens
the sink as fusion does and hands pages to it, so that there are more a second than the models can make. After three
tenths of the pages the fault begins, after seven tenths it ends:

* `full`: the disk is full (a tmpfs that another file fills)
* `frozen`: the disk hangs (an ext4 file system that `fsfreeze` stops)
* `killed`: the server or process is killed right after the last page, and another one started
* `kafka_hangs`, `kafka_dies`: librdkafka's mock broker is stopped, or killed

The first two need root. A page counts as whole if its record has the products that its client saw. Part `cost` measures
what recording adds to the work of a request, in this process. `--pages` is divided among the parts. The last line is
one JSON document; the exit status is 1 if something was not kept.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from endcap_client import Client
from endcap_client.errors import EndcapError
from endcap_server.exposures.folder import ExposureFolder
from endcap_server.exposures.journal import SegmentLimits, SegmentWriter
from endcap_server.exposures.ledger import Ledger
from endcap_server.exposures.record import FOLDER_VARIABLE
from endcap_server.exposures.segments import read_exposures
from endcap_server.exposures.sink import ExposureSink
from endcap_server.launch import Server, ServerOptions
from endcap_server.shop.store import ItemStore
from rich.console import Console
from rich.progress import Progress

from benchmarks.apply_sources import copy_build, parameter
from benchmarks.exposure_faults import (
    TOPIC,
    Place,
    dying_broker,
    frozen_disk,
    full_disk,
    hanging_broker,
    no_fault,
)
from benchmarks.exposure_offers import SAID_EVERY, page, products_of

Fault = Callable[[Path], AbstractContextManager[Place]]
FAULTS: Mapping[str, Fault] = {
    "full": full_disk,
    "frozen": frozen_disk,
    "killed": no_fault,
    "kafka_hangs": hanging_broker,
    "kafka_dies": dying_broker,
}
COST = "cost"
_BEGIN, _END = 0.3, 0.7
_TIMEOUT_S, _SETTLE_S = 30.0, 60.0
_DIFFERENT = 40
"""Different pages, and searches: most answers come from caches, so that there are many a second."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path)
    parser.add_argument("--pages", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=2, help="with a build (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=400.0, help="pages a second without one (default: %(default)s)")
    parser.add_argument("--part", nargs="+", choices=(*FAULTS, COST), default=[*FAULTS, COST])
    arguments = parser.parse_args()
    # Treated like Ctrl-C, so that servers are stopped and file systems unmounted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    faults = [part for part in arguments.part if part != COST]
    found: dict[str, Any] = {}
    with Progress(console=Console(stderr=True)) as progress:
        for part in faults:
            pages = arguments.pages // len(faults)
            task = progress.add_task(part, total=pages)
            if arguments.build is None:
                found[part] = prove_sink(part, pages, arguments.rate, partial(progress.update, task))
            else:
                found[part] = prove(arguments.build, part, pages, arguments.clients, partial(progress.advance, task))
    if COST in arguments.part:
        found[COST] = cost()
    print(json.dumps(found))
    return int(any(problems(found[part]) for part in faults))


def problems(figures: Mapping[str, Any]) -> list[str]:
    """What was not kept in a part."""
    counts = figures["counts"]
    accounted = sum(counts[name] for name in ("written", "dropped", "failed", "lost"))
    missing = sum(counts[name] for name in ("dropped", "failed", "lost"))
    said = {
        "the server's log says nothing of what is missing": missing and not figures.get("logged", True),
        "pages were not answered": figures["failed"],
        "pages without an account": figures["answered"] != accounted or counts["offered"] != accounted,
        "rows are not what was written": figures["rows"] is not None and figures["rows"] != counts["written"],
        "rows are not whole": figures["not_whole"],
    }
    return [name for name, wrong in said.items() if wrong]


def prove(build: Path, part: str, pages: int, clients: int, advance: Callable[[], object]) -> dict[str, Any]:
    """Answers, counts and records of a part."""
    with tempfile.TemporaryDirectory(prefix="exposures-") as name, FAULTS[part](Path(name)) as place:
        copy = copy_build(build, Path(name) / "build")
        for key, value in place.parameters.items():
            parameter("fusion", key, value)(copy)
        options = ServerOptions(build=copy, grpc_port=0, http_port=0, metrics_port=0, exposures=place.folder)
        with Server(options) as server:
            started = time.perf_counter()
            with _Load(server.grpc_address, ItemStore.open(build), clients, pages, advance) as load:
                load.reached(int(pages * _BEGIN))
                place.begin()
                load.reached(int(pages * _END))
                place.end()
            seconds = time.perf_counter() - started
            if part == "killed" and server.process is not None:
                os.killpg(server.process.pid, signal.SIGKILL)
                server.stop()
                server.start()
            folder = ExposureFolder(place.folder)
            _settle(folder)
            logged = server.log.text().count(": exposures: ")
        counts = folder.totals()
        rows = list(_rows(place, counts["written"])) if place.kept else None
    shown = load.shown
    whole = {page for page, products in rows or () if shown.get(page) == products}
    return {
        "answered": len(shown),
        "failed": load.failed,
        "pages_per_s": round(len(shown) / seconds, 1),
        "p99_ms": round(float(np.percentile(load.took, 99)) * 1e3, 1),
        "counts": counts,
        "rows": None if rows is None else len(rows),
        "not_whole": len(rows or ()) - len(whole),
        "logged": logged,
    }


def prove_sink(part: str, pages: int, rate: float, update: Callable[..., object]) -> dict[str, Any]:
    """The same without a server: counts, and records of pages that a process hands to the sink."""
    with tempfile.TemporaryDirectory(prefix="exposures-") as name, FAULTS[part](Path(name)) as place:
        words = [sys.executable, "-m", "benchmarks.exposure_offers", str(pages), str(rate)]
        environment = {**os.environ, FOLDER_VARIABLE: str(place.folder)}
        with subprocess.Popen(
            [*words, json.dumps(dict(place.parameters))],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            begin, end = (int(pages * share) // SAID_EVERY * SAID_EVERY for share in (_BEGIN, _END))
            said = ""
            for said in process.stdout:
                if not said.strip().isdigit():
                    break
                update(completed=int(said))
                if int(said) == begin:
                    place.begin()
                elif int(said) == end:
                    place.end()
            folder = ExposureFolder(place.folder)
            if part == "killed":
                process.kill()
            else:
                _settle(folder)
            process.communicate()
        folder.adopt()
        counts = folder.totals()
        rows = list(_rows(place, counts["written"])) if place.kept else None
    whole = {page for page, products in rows or () if products_of(int(page)) == products}
    return {
        "answered": pages,
        "failed": [],
        **json.loads(said),
        "counts": counts,
        "rows": None if rows is None else len(rows),
        "not_whole": len(rows or ()) - len(whole),
    }


def _settle(folder: ExposureFolder) -> None:
    """Wait until what becomes of each exposure is known."""
    until = time.monotonic() + _SETTLE_S
    while time.monotonic() < until:
        counts = folder.totals()
        if counts["offered"] == sum(counts[name] for name in ("written", "dropped", "failed", "lost")):
            return
        time.sleep(0.2)


def _rows(place: Place, written: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Page id and products of each record."""
    if place.broker is None:
        rows = read_exposures(place.folder).to_pylist()
    else:
        rows = [json.loads(value) for _, value in place.broker.messages(TOPIC, written)]
    for row in rows:
        yield row["page_id"], tuple(product for each in row["placements"] for product in each["products"])


class _Load:
    """Clients that ask for a number of pages and searches in turns; a context manager that waits for all of them."""

    def __init__(self, address: str, store: ItemStore, clients: int, pages: int, advance: Callable[[], object]) -> None:
        self._address, self._store, self._pages, self._advance = address, store, pages, advance
        self.shown: dict[str, tuple[str, ...]] = {}
        self.took: list[float] = []
        self.failed: list[str] = []
        self._numbers = iter(range(pages))
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        with Client(self._address, timeout_s=_TIMEOUT_S) as client:
            while (number := self._next()) is not None:
                started = time.perf_counter()
                try:
                    page, products = self._ask(client, number)
                    self.took.append(time.perf_counter() - started)
                    self.shown[page] = products
                except EndcapError as error:
                    self.failed.append(str(error))
                self._advance()

    def _next(self) -> int | None:
        with self._lock:
            return next(self._numbers, None)

    def _ask(self, client: Client, number: int) -> tuple[str, tuple[str, ...]]:
        row, shopper = number // 2 % _DIFFERENT, f"shopper-{number % 100}"
        if number % 2:
            page = client.storefront(history=[self._store.product_ids[row]], shopper=shopper)
            products = tuple(each.product_id for placement in page.placements for each in placement.products)
            return page.status.document["page_id"], products
        result = client.search(self._store.titles[row][:60], shopper=shopper)
        return result.status.document["page_id"], tuple(each.product_id for each in result.products)

    def reached(self, number: int) -> None:
        """Wait until so many were asked."""
        while len(self.took) + len(self.failed) < number and any(thread.is_alive() for thread in self._threads):
            time.sleep(0.01)

    def __enter__(self) -> "_Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for thread in self._threads:
            thread.join()


_PAIRS, _REQUESTS, _WORK_S = 300, 10, 0.002


def cost() -> dict[str, Any]:
    """What recording adds to a request.

    `offer_us` is the call that hands an exposure to the sink. `added_ms` compares the work of requests (about 2 ms of
    Python, which needs the interpreter that the sink's thread needs, too) with and without that call: rounds of ten
    requests in turns, the difference of the medians of each pair of rounds, and the quartiles of these differences.
    """
    differences, offered = [], []
    with tempfile.TemporaryDirectory(prefix="exposures-") as name:
        ledger = Ledger(Path(name), "cost")
        limits = SegmentLimits(rows=500, seconds=300, bytes=1 << 30, days=90)
        sink = ExposureSink(SegmentWriter(ledger, limits), ledger, 2000)
        work = _work_of(_WORK_S)
        for pair in range(_PAIRS):
            took: dict[bool, list[float]] = {False: [], True: []}
            for recorded in (False, True) if pair % 2 else (True, False):
                for number in range(_REQUESTS):
                    started = time.perf_counter()
                    work()
                    if recorded:
                        exposure, before = page(number), time.perf_counter()
                        sink.offer(exposure)
                        offered.append(time.perf_counter() - before)
                    took[recorded].append(time.perf_counter() - started)
            differences.append(float(np.median(took[True]) - np.median(took[False])))
        sink.close()
        counts = dict(sink.counts())
    return {
        "counts": counts,
        "offer_us": {f"p{share}": round(float(np.percentile(offered, share)) * 1e6, 1) for share in (50, 90, 99)},
        "added_ms": {f"p{share}": round(float(np.percentile(differences, share)) * 1e3, 3) for share in (25, 50, 75)},
    }


def _work_of(seconds: float) -> Callable[[], object]:
    """Work of Python that takes about so long."""
    document = {str(number): [number / 7] * 10 for number in range(20)}
    started = time.perf_counter()
    for _ in range(50):
        json.dumps(document)
    count = max(1, round(seconds / ((time.perf_counter() - started) / 50)))

    def work() -> None:
        for _ in range(count):
            json.dumps(document)

    return work


if __name__ == "__main__":
    sys.exit(main())
