"""Ask a running server for many random storefronts and check every answer.

    python -m benchmarks.storefront_validity --build build/demo --address 127.0.0.1:8001 --requests 1000

Checked of each page: themes are there and short enough, keywords are known search keywords, products are known, in
stock and shown once, scores descend, and every stage's source is one of the contract's. Fallbacks are counted: they are
allowed, but only if STATUS admits them. Exit status 1 if anything is wrong. The last line is one JSON document.
"""

import argparse
import json
import random
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from endcap_client import Client, Page
from endcap_server.store import ItemStore
from rich.progress import track

SOURCES = {"generated", "cached", "computed", "fallback"}
MAX_THEME_CHARACTERS = 80


def random_shopper(store: ItemStore, rng: random.Random) -> tuple[list[str], list[str]]:
    """History and session of a made-up shopper: from nobody to a regular."""
    history = [
        store.product_ids[rng.randrange(len(store.product_ids))] for _ in range(rng.choice([0, 1, 3, 8, 20, 40]))
    ]
    session = [store.keywords[rng.randrange(len(store.keywords))] for _ in range(rng.choice([0, 0, 1, 2]))]
    return history, session


def problems(page: Page, store: ItemStore, placements: int) -> list[str]:
    """What is wrong with a page; empty if nothing is."""
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


def main() -> int:
    """Run the check from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--address", default="127.0.0.1:8001")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--timeout-s", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    store = ItemStore.open(arguments.build)
    rng = random.Random(arguments.seed)
    shoppers = [(*random_shopper(store, rng), rng.randint(1, 6)) for _ in range(arguments.requests)]
    sources: Counter[str] = Counter()
    aiqa: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    wrong: list[str] = []
    times_ms: list[float] = []
    with Client(arguments.address, timeout_s=arguments.timeout_s) as client:

        def ask(shopper: tuple[list[str], list[str], int]) -> tuple[Page, int]:
            history, session, placements = shopper
            return client.storefront(history=history, session=session, placements=placements), placements

        start = time.perf_counter()
        with ThreadPoolExecutor(arguments.clients) as pool:
            pages = track(pool.map(ask, shoppers), "storefronts", total=len(shoppers))
            for page, placements in pages:
                wrong += problems(page, store, placements)
                times_ms.append(page.seconds * 1e3)
                for name, stage in page.status.stages.items():
                    sources[f"{name}: {stage.source}"] += 1
                    aiqa.update({f"{name}: {reason}": count for reason, count in stage.aiqa.items()})
                    if stage.reason:
                        reasons[f"{name}: {stage.reason}"] += 1
        seconds = time.perf_counter() - start
    for title, counts in (("sources", sources), ("reasons", reasons), ("quality checks", aiqa)):
        print(title)
        for name, count in sorted(counts.items()):
            print(f"  {name:<60} {count}")
    for text, count in Counter(wrong).most_common(20):
        print(f"WRONG {count} x {text}")
    result = {
        "requests": len(times_ms),
        "wrong": len(wrong),
        "sources": dict(sources),
        "p50_ms": round(statistics.median(times_ms), 1),
        "p95_ms": round(float(np.percentile(times_ms, 95)), 1),
        "pages_per_s": round(len(times_ms) / seconds, 1),
    }
    print(json.dumps(result))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
