"""Measures a refresh of a build after a share of its products changed, beside the build from scratch.

    python -m benchmarks.refresh --build build/demo [--share 0.01] [--answers 100]

Of the changed products, a third gets another title, a third is removed, and a third is new. `endcap build --refresh`
takes the changed catalogue into a copy of the build. The same catalogue is then taken into another copy without reuse
of vectors and tokens: `differing_files` are the files of the two that differ, and `largest_difference` is that of their
vectors. With `--answers`, both are served, and `equal_answers` are so many pages and as many searches whose products
are the same.

`full_s` is the time that all steps of the build took, from its manifest; the machine has to be the same. `steps_s` are
the steps of the refresh, and `command_s` is the whole command from its start to its end. The last line is one JSON
document.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from endcap_builders.catalogue import read_catalogue, write_catalogue
from endcap_builders.manifest import read_manifest
from endcap_builders.pipeline import Pipeline
from endcap_builders.refresh import refresh
from endcap_builders.reuse import FOLDER as REUSE
from endcap_builders.steps import all_steps
from endcap_client import Client
from endcap_server.launch import Server, ServerOptions
from endcap_server.shop.store import ItemStore
from rich.console import Console
from rich.progress import track

from benchmarks.apply_sources import copy_build
from benchmarks.replay import Replay, ReplayedRequest

NEW, RENAMED = "refresh-", "Renamed"
_BUDGET_MS, _TIMEOUT_S = 20_000, 60.0
_console = Console(stderr=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--catalogue", type=Path, help="default: the one it was built from")
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--answers", type=int, default=0, help="pages, and searches, to compare (default: none)")
    arguments = parser.parse_args()
    manifest = read_manifest(arguments.build)
    catalogue = arguments.catalogue or Path(manifest["catalogue"]["folder"])
    with tempfile.TemporaryDirectory(prefix=".refresh-", dir=arguments.build.parent) as name:
        folder = Path(name)
        changed = changed_catalogue(catalogue, folder / "catalogue", arguments.share)
        refreshed, anew = (copy_build(arguments.build, folder / kind) for kind in ("refreshed", "anew"))
        command_s = _refresh_by_command(refreshed, folder / "catalogue")
        began = time.monotonic()
        refresh(refreshing(anew, folder / "catalogue"), force=True)
        without_reuse_s = time.monotonic() - began
        steps = read_manifest(refreshed)["steps"]
        before = {name: entry["built"] for name, entry in manifest["steps"].items()}
        ran = {name: entry["figures"]["seconds"] for name, entry in steps.items() if entry["built"] != before.get(name)}
        full = sum(entry["figures"]["seconds"] for entry in manifest["steps"].values())
        found = {
            "products": manifest["steps"]["store"]["figures"]["products"],
            "changed": changed,
            "full_s": round(full, 1),
            "command_s": round(command_s, 1),
            "share_of_full": round(command_s / full, 3),
            "steps_s": ran,
            "steps_share_of_full": round(sum(ran.values()) / full, 3),
            "without_reuse_s": round(without_reuse_s, 1),
            **differences(refreshed, anew),
        }
        if arguments.answers:
            found["equal_answers"] = equal_answers(refreshed, anew, folder / "catalogue", arguments.answers)
    print(json.dumps(found))
    return 0


def _refresh_by_command(build: Path, catalogue: Path) -> float:
    """`endcap build --refresh`, in a process of its own; its seconds."""
    words = [sys.executable, "-m", "endcap_client.cli", "build", "--refresh"]
    began = time.monotonic()
    subprocess.run([*words, "--catalogue", str(catalogue), "--out", str(build)], stdout=sys.stderr, check=True)
    return time.monotonic() - began


def equal_answers(build: Path, other: Path, catalogue: Path, count: int) -> dict[str, int]:
    """How many of ``count`` pages and ``count`` searches show the same products in the same order with two builds."""
    replay = Replay(catalogue, 7)
    requests = [*replay.storefronts(count), *replay.searches(count)]
    shown: list[list[tuple[str, ...]]] = []
    for each in (build, other):
        options = ServerOptions(build=each, grpc_port=0, http_port=0, metrics_port=0)
        with Server(options) as server, Client(server.grpc_address, timeout_s=_TIMEOUT_S) as client:
            described = f"answers of {each.name}"
            shown.append([_products(client, request) for request in track(requests, described, console=_console)])
    same = [one == two for one, two in zip(*shown, strict=True)]
    return {"pages": sum(same[:count]), "searches": sum(same[count:]), "of_each": count}


def _products(client: Client, request: ReplayedRequest) -> tuple[str, ...]:
    history = request.history
    if request.kind == "search":
        found = client.search(request.query, history=history, budget_ms=_BUDGET_MS)
        return tuple(each.product_id for each in found.products)
    page = client.storefront(history=history, session=request.session, budget_ms=_BUDGET_MS)
    return tuple(each.product_id for placement in page.placements for each in placement.products)


def refreshing(build: Path, catalogue: Path) -> Pipeline:
    """The pipeline of a finished build with another catalogue."""
    manifest = read_manifest(build)
    told = {"profile": manifest["profile"], "seed": manifest["seed"]}
    return Pipeline(all_steps(), build, catalogue, console=_console, **told)


def changed_catalogue(catalogue: Path, folder: Path, share: float, seed: int = 1) -> dict[str, int]:
    """Write a catalogue in which a share of the products changed; returns how many of each kind.

    Args:
        catalogue: the former catalogue.
        folder: the new one.
        share: of the products, 0..1.
        seed: of the choice.
    """
    source = read_catalogue(catalogue)
    columns = source.columns["products"]
    products = source.products.select(columns)
    third = max(1, round(share * products.height / 3))
    rng = np.random.default_rng(seed)
    renamed, removed, copied = np.split(rng.choice(products.height, 3 * third, replace=False), 3)
    row = pl.int_range(pl.len())
    new = products[np.sort(copied)].with_columns(
        product_id=NEW + pl.col("product_id"), title=pl.lit("New ") + pl.col("title")
    )
    title = pl.when(row.is_in(renamed.tolist())).then(pl.lit(f"{RENAMED} ") + pl.col("title")).otherwise("title")
    kept = products.with_columns(title=title).filter(~row.is_in(removed.tolist()))
    # New products are not at the end: rows of the others move.
    middle = kept.height // 2
    write_catalogue(
        folder, pl.concat([kept[:middle], new, kept[middle:]]), source.events, source.queries, source.judgements
    )
    return {"renamed": third, "removed": third, "added": third}


def differences(build: Path, other: Path) -> dict[str, Any]:
    """Files in which two builds differ, and the largest difference of their vectors."""
    one, two = read_manifest(build)["steps"], read_manifest(other)["steps"]
    differing = [
        f"{step}/{name}"
        for step, entry in one.items()
        for name, digest in entry["files"].items()
        if two[step]["files"].get(name) != digest and not name.startswith(f"{REUSE}/")
    ]
    stores = ItemStore.open(build), ItemStore.open(other)
    largest = 0.0
    for name in ("vectors", "keyword_vectors"):
        first, second = (getattr(store, name).astype(np.float32) for store in stores)
        largest = max(largest, float(np.abs(first - second).max()))
    return {"differing_files": differing, "largest_difference": largest}


if __name__ == "__main__":
    raise SystemExit(main())
