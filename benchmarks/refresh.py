"""Measures a refresh of a build after a share of its products changed, beside the build from scratch.

    python -m benchmarks.refresh --build build/demo [--share 0.01]

Of the changed products, a third gets another title, a third is removed, and a third is new. The same catalogue is then
taken into another copy of the build without reuse of vectors and tokens: `differing_files` are the files of the two
that differ, and `largest_difference` is that of their vectors. `full_s` is the time that all steps of the build took,
from its manifest; the machine has to be the same. `refresh_s` is that of the steps of the refresh, and `start_s` what
comes before and between them in any build: imports, and digests of the code. The last line is one JSON document.
"""

import argparse
import json
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
from endcap_server.shop.store import ItemStore
from rich.console import Console

from benchmarks.apply_sources import copy_build

NEW, RENAMED = "refresh-", "Renamed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--catalogue", type=Path, help="default: the one it was built from")
    parser.add_argument("--share", type=float, default=0.01)
    arguments = parser.parse_args()
    manifest = read_manifest(arguments.build)
    catalogue = arguments.catalogue or Path(manifest["catalogue"]["folder"])
    with tempfile.TemporaryDirectory(prefix=".refresh-", dir=arguments.build.parent) as name:
        folder = Path(name)
        changed = changed_catalogue(catalogue, folder / "catalogue", arguments.share)
        builds, took = {}, {}
        for kind in ("refreshed", "anew"):
            builds[kind] = copy_build(arguments.build, folder / kind)
            began = time.monotonic()
            refresh(refreshing(builds[kind], folder / "catalogue"), force=kind == "anew")
            took[kind] = time.monotonic() - began
        steps = read_manifest(builds["refreshed"])["steps"]
        before = {name: entry["built"] for name, entry in manifest["steps"].items()}
        ran = {name: entry["figures"]["seconds"] for name, entry in steps.items() if entry["built"] != before.get(name)}
        full = sum(entry["figures"]["seconds"] for entry in manifest["steps"].values())
        found = {
            "products": manifest["steps"]["store"]["figures"]["products"],
            "changed": changed,
            "full_s": round(full, 1),
            "refresh_s": round(sum(ran.values()), 1),
            "share_of_full": round(sum(ran.values()) / full, 3),
            "without_reuse_s": round(took["anew"], 1),
            "start_s": round(took["refreshed"] - sum(ran.values()), 1),
            "steps_s": ran,
            **differences(builds["refreshed"], builds["anew"]),
        }
    print(json.dumps(found))
    return 0


def refreshing(build: Path, catalogue: Path) -> Pipeline:
    """The pipeline of a finished build with another catalogue."""
    manifest = read_manifest(build)
    told = {"profile": manifest["profile"], "seed": manifest["seed"]}
    return Pipeline(all_steps(), build, catalogue, console=Console(stderr=True), **told)


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
