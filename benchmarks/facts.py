"""Measures facts: how many changes a second are taken in, and how soon a change is on pages and searches.

    python -m benchmarks.facts --build build/demo [--changes 1000] [--clients 2] [--part intake|visible ...]
        [--times FILE]

Part ``intake`` writes changes of all products of the build into a journal, from files and (if redis-server is
installed) from a stream. Part ``visible`` serves the build, and keeps clients asking for pages and searches. One
product at a time is sold out and comes back. ``write`` is the time until a change is on disk, the others are the time
from its call to the end of the first answer that shows it; most of it is the answer's own time, which ``_before`` has
for the same requests just before a change. ``--times`` keeps the times of each change in a file: a run adds to those of
earlier runs, and its figures are those of all. The last line of the output is one JSON document. The exit status is 1
if a request failed, or an answer that was requested after a change had been acknowledged still showed a product that
was sold out.
"""

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from endcap_client import Client
from endcap_client.errors import EndcapError
from endcap_server.facts.files import read_file
from endcap_server.facts.records import KnownNames, check_records
from endcap_server.launch import Server, ServerOptions
from endcap_server.shop.facts import IN_STOCK, Facts
from endcap_server.shop.facts_state import FactChange, FactsWriter
from endcap_server.shop.store import ItemStore
from rich.console import Console
from rich.progress import Progress

_QUERIES, _HISTORIES = 20, 8
_FILE_RECORDS = 100_000
_STREAM_RECORDS = 50_000
_TIMEOUT_S = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--part", nargs="+", choices=("intake", "visible"), default=["intake", "visible"])
    parser.add_argument("--times", type=Path, metavar="FILE", help="file of the times, which several runs add to")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="facts-") as folder:
        if "intake" in arguments.part:
            found["intake"] = intake(arguments.build, Path(folder))
        if "visible" in arguments.part:
            found["visible"] = visible(arguments.build, Path(folder), arguments.changes, arguments.clients)
            if arguments.times is not None:
                found["visible"] = _added(arguments.times, found["visible"])
            found["visible"] = _figures(found["visible"])
    print(json.dumps(found))
    seen = found.get("visible", {})
    return int(bool(seen.get("failed") or seen.get("sold_out_shown")))


def intake(build: Path, folder: Path) -> dict[str, Any]:
    """Changes a second that are checked and on disk; and what a reader of the journal takes for them."""
    store = ItemStore.open(build)
    path = folder / "stock.csv"
    rows = np.random.default_rng(0).integers(0, len(store), _FILE_RECORDS)
    ids = [store.product_ids[row] for row in rows.tolist()]
    lines = (f"{product},{number % 5},{number % 100}" for number, product in enumerate(ids))
    path.write_text("product_id,stock,price\n" + "\n".join(lines) + "\n", encoding="utf-8")
    reader = Facts(store, folder / "file")
    reader.now()
    started = time.perf_counter()
    checked = check_records(read_file(str(path)), KnownNames([store]))
    FactsWriter(folder / "file", "benchmark").write(checked.changes)
    took = time.perf_counter() - started
    reading = time.perf_counter()
    reader.now()
    result = {
        "file_records": len(ids),
        "file_records_per_s": round(len(ids) / took),
        "reader_s": round(time.perf_counter() - reading, 3),
        "check_us": round(_check_us(reader), 2),
    }
    return result | _stream_intake(build, folder, ids)


def _check_us(reader: Facts) -> float:
    """What a request pays where nothing has changed."""
    count = 100_000
    started = time.perf_counter()
    for _ in range(count):
        reader.now()
    return (time.perf_counter() - started) / count * 1e6


def _stream_intake(build: Path, folder: Path, ids: Sequence[str]) -> dict[str, Any]:
    program = shutil.which("redis-server")
    if program is None:
        return {"stream": "redis-server is not installed (Debian: apt-get install redis-server)"}
    import redis

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([program, "--port", str(port), "--save", ""], stdout=subprocess.DEVNULL) as server:
        try:
            client = redis.Redis(port=port, retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.1), 100))
            client.ping()
            for start in range(0, _STREAM_RECORDS, 1000):
                commands = client.pipeline(transaction=False)
                for number in range(start, start + 1000):
                    commands.xadd("stock", {"product_id": ids[number], "stock": number % 5, "price": number % 100})
                commands.execute()
            words = [sys.executable, "-m", "endcap_client.cli", "facts", "follow", f"redis://127.0.0.1:{port}/stock"]
            words += ["--build", str(build), "--facts", str(folder / "stream"), "--group", "shop"]
            with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as follower:
                assert follower.stderr is not None
                follower.stderr.readline()
                started = time.perf_counter()
                while _unread(client):
                    time.sleep(0.01)
                took = time.perf_counter() - started
                follower.terminate()
        finally:
            server.terminate()
    return {"stream_records": _STREAM_RECORDS, "stream_records_per_s": round(_STREAM_RECORDS / took)}


def _unread(client: Any) -> bool:
    groups = client.xinfo_groups("stock")
    return not groups or bool(groups[0]["lag"] or groups[0]["pending"])


class _Load:
    """Clients that ask for pages and searches, and count failures; a context manager."""

    def __init__(self, address: str, store: ItemStore, clients: int) -> None:
        self._address, self._store = address, store
        self.answered, self.failed = 0, [""][:0]
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def _run(self, number: int) -> None:
        with Client(self._address, timeout_s=_TIMEOUT_S) as client:
            rng = np.random.default_rng(number)
            while not self._stopped.is_set():
                history = [self._store.product_ids[row] for row in rng.integers(0, len(self._store), 8).tolist()]
                try:
                    client.storefront(history=history)
                    client.search(self._store.titles[int(rng.integers(len(self._store)))][:60])
                    self.answered += 2
                except EndcapError as error:
                    self.failed.append(str(error))

    def __enter__(self) -> "_Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


def visible(build: Path, folder: Path, changes: int, clients: int) -> dict[str, Any]:
    """Times (s) from a change to the first answer that shows it, alternately on a search and a page, and counts."""
    store = ItemStore.open(build)
    with _serving(build, folder / "served") as server, _Load(server.grpc_address, store, clients) as load:
        figures = _watch(server, store, folder / "served", changes)
    return {**figures, "answered": load.answered, "failed": load.failed}


@contextmanager
def _serving(build: Path, facts: Path) -> Iterator[Server]:
    with Server(ServerOptions(build=build, grpc_port=0, http_port=0, metrics_port=0, facts=facts)) as server:
        yield server


def _watch(server: Server, store: ItemStore, facts: Path, changes: int) -> dict[str, Any]:
    writer = FactsWriter(facts, "benchmark")
    keywords = store.keywords.take(np.argsort(-store.keyword_counts)[:_QUERIES])
    took: dict[str, list[float]] = {
        f"{name}{when}": [] for name in ("search", "storefront") for when in ("", "_before")
    }
    wrong, written = 0, []
    with (
        Client(server.grpc_address, timeout_s=_TIMEOUT_S) as client,
        Progress(console=Console(stderr=True)) as progress,
    ):

        def shown(number: int) -> list[str]:
            if number // 2 % 2:
                page = client.storefront(history=[store.product_ids[number % _HISTORIES]])
                return [each.product_id for placement in page.placements for each in placement.products]
            return [each.product_id for each in client.search(keywords[number % _QUERIES]).products]

        for number in range(4 * _QUERIES):  # later answers come partly from caches, as in a shop
            shown(number)
        product = ""
        for number in progress.track(range(changes), description="changes"):
            # Even changes sell the first product of an answer out, odd ones bring it back.
            gone, kind = not number % 2, "storefront" if number // 2 % 2 else "search"
            if gone:
                started = time.perf_counter()
                product = shown(number)[0]
                took[f"{kind}_before"].append(time.perf_counter() - started)
            started = time.perf_counter()
            writer.write([FactChange(product, IN_STOCK, float(not gone), time.time())])
            written.append(time.perf_counter() - started)
            found = product in shown(number - number % 2)
            took[kind].append(time.perf_counter() - started)
            wrong += gone and found
    return {"changes": changes, "sold_out_shown": wrong, "times": {"write": written, **took}}


def _added(file: Path, found: dict[str, Any]) -> dict[str, Any]:
    """The counts and times of a run and of the earlier ones, which the file has; the file then has them all."""
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    times = {name: [*earlier.get("times", {}).get(name, ()), *took] for name, took in found["times"].items()}
    # A number, or a list of failures.
    counts = {name: earlier[name] + value if earlier else value for name, value in found.items() if name != "times"}
    new = file.with_suffix(".new")
    new.write_text(json.dumps({**counts, "times": times}), encoding="utf-8")
    new.replace(file)
    return {**counts, "times": times}


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    """The counts, and the medians and 99th percentiles of the times, in ms; `change` is of searches and pages."""
    took = found["times"]
    took = {"change": took["search"] + took["storefront"], **took}
    return {
        **{name: value for name, value in found.items() if name != "times"},
        **{
            f"{name}_{quantile}_ms": round(float(np.percentile(times, share)) * 1e3, 1)
            for name, times in took.items()
            for quantile, share in (("p50", 50), ("p99", 99))
        },
    }


if __name__ == "__main__":
    sys.exit(main())
