"""How long the studio's search takes while a person types: products by words of their titles, and who bought them.

`python -m benchmarks.studio --products 1000000` makes a catalogue of that many products, asks each query several times,
and prints one JSON document with milliseconds: of the clock (median), and of the processor (most).
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl
from endcap_builders.behaviour.log import EventLog
from endcap_studio.shoppers import Shoppers
from endcap_studio.titles import TitleSearch

from benchmarks.growth_catalogue import write_growth_catalogue

QUERIES = ("c", "cat", "cat food", "organic", "organic milk 2 l", "ow 12 pa", "no product has this", "zz")
_ROUNDS = 5
_FOUND = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=1_000_000, metavar="N", help="default: %(default)s")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_growth_catalogue(Path(folder), arguments.products)
        products = pl.read_parquet(Path(folder) / "products.parquet", columns=["product_id", "title", "brand"])
        events = pl.read_parquet(Path(folder) / "events.parquet")
    began = time.perf_counter()
    weight = np.random.default_rng(1).random(len(products)).astype(np.float32)
    titles = TitleSearch(products["title"], products["brand"], weight)
    opened_s = time.perf_counter() - began
    shoppers = Shoppers(_log(products, events))
    shoppers.who_bought([0], 1)
    took = {query: [_ask(titles, shoppers, query) for _ in range(_ROUNDS)] for query in QUERIES}
    document = {
        "products": len(products),
        "events": len(events),
        "opened_s": round(opened_s, 2),
        "ms": {query: round(1000 * median(clock for clock, _ in times), 1) for query, times in took.items()},
        "cpu_ms": {query: round(1000 * max(cpu for _, cpu in times), 1) for query, times in took.items()},
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(document, indent=1))


def _ask(titles: TitleSearch, shoppers: Shoppers, query: str) -> tuple[float, float]:
    began = time.perf_counter(), time.process_time()
    rows = titles.find(query, _FOUND)
    shoppers.named(query, 4)
    shoppers.who_bought(rows, _FOUND)
    return time.perf_counter() - began[0], time.process_time() - began[1]


def _log(products: pl.DataFrame, events: pl.DataFrame) -> EventLog:
    numbered = products.select("product_id").with_row_index("row")
    table = events.join(numbered, on="product_id").sort("user_id", "timestamp")
    shopper = table["user_id"].rle_id().to_numpy().astype(np.int64)
    return EventLog(
        table["row"].to_numpy().astype(np.int64),
        shopper,
        table["timestamp"].dt.epoch("d").to_numpy().astype(np.int64),
        (table["type"] == "purchase").to_numpy(),
        len(products),
        tuple(table["user_id"].unique(maintain_order=True)),
    )


if __name__ == "__main__":
    main()
