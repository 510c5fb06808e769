"""Request many random storefronts from a running server, and check every answer.

    python -m benchmarks.storefront_validity --build build/demo --address 127.0.0.1:8001 --requests 1000

Checks of each page: themes are present and short enough, keywords are known search keywords, products are known, in
stock and shown once, scores descend, and every stage's source is one of the contract's. Fallbacks are allowed and
counted if STATUS reports them. The exit status is 1 if a page is wrong. The last line is one JSON document. After
Ctrl-C or SIGTERM the program reports the pages so far, and exits with 130.
"""

import argparse
import json
import random
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from endcap_client import Client, Page, numbers
from endcap_server.shop.store import ItemStore
from rich.progress import track

SOURCES = {"generated", "prepared", "cached", "computed", "fallback"}
MAX_THEME_CHARACTERS = 80
Shopper = tuple[list[str], list[str], int]
"""History, session, placements."""


def random_shopper(store: ItemStore, rng: random.Random) -> tuple[list[str], list[str]]:
    """History and session of a random shopper, from unknown to frequent."""
    history = [
        store.product_ids[rng.randrange(len(store.product_ids))] for _ in range(rng.choice([0, 1, 3, 8, 20, 40]))
    ]
    session = [store.keywords[rng.randrange(len(store.keywords))] for _ in range(rng.choice([0, 0, 1, 2]))]
    return history, session


def problems(page: Page, store: ItemStore, placements: int) -> list[str]:
    """The faults of a page; empty if there are none."""
    found = []
    if not 1 <= len(page.placements) <= placements:
        found.append(f"expected 1 to {placements} placements, got {len(page.placements)}")
    shown = [product.product_id for placement in page.placements for product in placement.products]
    if len(shown) != len(set(shown)):
        found.append("a product is shown twice")
    rows = store.product_ids.find(shown)
    if (rows < 0).any():
        found.append("unknown product")
    elif not store.in_stock[rows].all():
        found.append("a product is out of stock")
    for placement in page.placements:
        if not 1 <= len(placement.theme.strip()) <= MAX_THEME_CHARACTERS or set(placement.theme) & set('{}[]"\n'):
            found.append(f"malformed theme {placement.theme!r}")
        if (store.keywords.find(list(placement.keywords)) < 0).any():
            found.append(f"keyword outside the known ones in {placement.keywords}")
        if len(set(placement.keywords)) != len(placement.keywords):
            found.append(f"a keyword twice in {placement.keywords}")
        scores = [product.score for product in placement.products]
        if not scores or not np.isfinite(scores).all() or sorted(scores, reverse=True) != scores:
            found.append(f"scores of {placement.theme!r} are not descending numbers")
    for name, stage in page.status.stages.items():
        if stage.source not in SOURCES or (stage.source == "fallback" and not stage.reason):
            found.append(f"stage {name} says {stage.source!r} without a reason")
    return found


@dataclass
class Tally:
    """Counts over the pages so far."""

    sources: Counter[str] = field(default_factory=Counter)
    aiqa: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)

    def add(self, page: Page, store: ItemStore, placements: int) -> None:
        """Count one page."""
        self.wrong += problems(page, store, placements)
        self.times_ms.append(page.seconds * 1e3)
        for name, stage in page.status.stages.items():
            self.sources[f"{name}: {stage.source}"] += 1
            self.aiqa.update({f"{name}: {reason}": count for reason, count in stage.aiqa.items()})
            if stage.reason:
                self.reasons[f"{name}: {stage.reason}"] += 1

    def document(self, seconds: float) -> dict[str, Any]:
        """Figures of the pages so far; times are absent without a page."""
        figures: dict[str, Any] = {
            "requests": len(self.times_ms), "wrong": len(self.wrong), "sources": dict(self.sources)
        }  # fmt: skip
        if self.times_ms:
            figures["p50_ms"] = round(statistics.median(self.times_ms), 1)
            figures["p95_ms"] = round(float(np.percentile(self.times_ms, 95)), 1)
            figures["pages_per_s"] = round(len(self.times_ms) / seconds, 1)
        return figures


def ask_all(client: Client, store: ItemStore, shoppers: Sequence[Shopper], clients: int, tally: Tally) -> bool:
    """Request every shopper's page and count the results; False if SIGINT or SIGTERM stopped it early."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(shopper: Shopper) -> tuple[Page, int] | None:
        if stop.is_set():
            return None
        history, session, placements = shopper
        return client.storefront(history=history, session=session, placements=placements), placements

    try:
        with ThreadPoolExecutor(clients) as pool:
            for answer in track(pool.map(ask, shoppers), "storefronts", total=len(shoppers)):
                if answer is not None:
                    tally.add(answer[0], store, answer[1])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return not stop.is_set()


def main() -> int:
    """Run the check from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--address", default="127.0.0.1:8001")
    parser.add_argument("--requests", type=numbers.count, default=1000)
    parser.add_argument("--clients", type=numbers.count, default=4)
    parser.add_argument("--timeout-s", type=numbers.seconds, default=10.0)
    parser.add_argument("--seed", type=numbers.seed, default=1)
    arguments = parser.parse_args()
    store = ItemStore.open(arguments.build)
    rng = random.Random(arguments.seed)
    shoppers = [(*random_shopper(store, rng), rng.randint(1, 6)) for _ in range(arguments.requests)]
    tally = Tally()
    start = time.perf_counter()
    with Client(arguments.address, timeout_s=arguments.timeout_s) as client:
        interrupted = not ask_all(client, store, shoppers, arguments.clients, tally)
    for title, counts in (("sources", tally.sources), ("reasons", tally.reasons), ("quality checks", tally.aiqa)):
        print(title)
        for name, count in sorted(counts.items()):
            print(f"  {name:<60} {count}")
    for text, count in Counter(tally.wrong).most_common(20):
        print(f"WRONG {count} x {text}")
    print(json.dumps(tally.document(time.perf_counter() - start) | {"interrupted": interrupted}))
    if interrupted:
        print(f"stopped after {len(tally.times_ms)} of {len(shoppers)} pages", file=sys.stderr)
        return 130
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
