"""Measures prepared pages: how many a second are made, and the time of a page with one beside live pages.

    python -m benchmarks.prepared --build build/test [--pages 40]

Prepares the pages of every second shopper of the build's catalogue (they stay in the build's store), serves the build,
and asks for prepared and live pages in turns, each of another shopper, so that no page comes from a cache. The last
line of the output is one JSON document: medians in milliseconds, and their ratio.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from endcap_builders.catalogue import read_catalogue
from endcap_builders.manifest import read_manifest
from endcap_builders.prepare.command import PrepareRequest, run_prepare
from endcap_client import Client
from endcap_server.launch import Server, ServerOptions
from rich.console import Console
from rich.progress import track

_TIMEOUT_S = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--pages", type=int, default=40, help="prepared pages to ask for, and as many live ones")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    everyone = _histories(arguments.build)
    chosen, others = everyone[::2], everyone[1::2]
    with tempfile.TemporaryDirectory(prefix="prepared-") as folder:
        path = Path(folder) / "shoppers.jsonl"
        lines = [json.dumps({"shopper": key, "history": history}) for key, history in chosen]
        path.write_text("\n".join(lines), encoding="utf-8")
        summary = run_prepare(PrepareRequest(arguments.build, path, max_age_hours=0), console)
    options = ServerOptions(build=arguments.build, grpc_port=0, http_port=0, metrics_port=0)
    with Server(options) as server, Client(server.grpc_address, timeout_s=_TIMEOUT_S) as client:
        found = _pages(client, chosen, others, arguments.pages, console)
    found |= {"made": summary.written, "shoppers_per_second": round(summary.shoppers_per_second, 2)}
    print(json.dumps(found))
    return 0


def _histories(build: Path) -> list[tuple[str, list[str]]]:
    """Shoppers and their newest 40 events."""
    events = read_catalogue(Path(read_manifest(build)["catalogue"]["folder"])).events
    if events is None:
        raise SystemExit(f"{build}: expected a catalogue with events")
    found = events.sort("timestamp").group_by("user_id", maintain_order=True).agg("product_id")
    return [(user, products[-40:]) for user, products in found.iter_rows()]


def _pages(
    client: Client,
    chosen: list[tuple[str, list[str]]],
    others: list[tuple[str, list[str]]],
    pages: int,
    console: Console,
) -> dict[str, Any]:
    """Median times of prepared pages and of live ones; pages of which a part comes from a cache do not count."""
    times: dict[str, list[float]] = {"prepared": [], "generated": []}
    turns = list(zip(chosen, others, strict=False))
    for number, turn in enumerate(track(turns[: 2 * pages], "pages", console=console)):
        # The order changes, because the second page finds warm caches of the processor.
        for key, history in turn if number % 2 else turn[::-1]:
            page = client.storefront(history, shopper=key)
            sources = {page.status.stages[stage].source for stage in ("theme", "keywords")}
            if len(sources) == 1 and (source := sources.pop()) in times:
                times[source].append(1e3 * page.seconds)
        if min(map(len, times.values())) >= pages:
            break
    medians = {name: float(np.median(each)) for name, each in times.items()}
    return {
        "pages": {name: len(each) for name, each in times.items()},
        "ms": {name: round(each, 2) for name, each in medians.items()},
        "live_to_prepared": round(medians["generated"] / medians["prepared"], 2),
    }


if __name__ == "__main__":
    raise SystemExit(main())
