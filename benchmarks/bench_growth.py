"""Builds and serves generated catalogues of several sizes: what grows with the number of products.

    python -m benchmarks.bench_growth --build build/demo --out growth [--sizes 10000,100000,1000000]

Models are those of the finished build ``--build``; its bi-encoder encodes the words of the catalogue once, and a
product's vector is the mean of its words (`growth_catalogue.WordEncoder`). Every part of a size (catalogue, each step
of the build, recall) runs in a process of its own and is kept in ``--out``; a run that was interrupted
continues with the next part. All sizes are served side by side. ``--only PART`` measures some parts, again if need be.
Writes growth.json and growth.md.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from endcap_builders.pipeline import Pipeline
from endcap_builders.step import BuildContext, Step
from endcap_builders.steps import behaviour, captions, catalogue, index, lexical, store, topics
from endcap_builders.steps.store import StoreSettings, write_store
from endcap_client import numbers
from endcap_server.engines.allowed_rows import AllowedRows
from endcap_server.engines.bi_encoder import BiEncoder
from endcap_server.engines.vector_index import VectorIndex
from endcap_server.shop.store import ItemStore
from rich.console import Console

from benchmarks.growth_catalogue import UNSEEN, WordEncoder, write_growth_catalogue
from benchmarks.growth_serving import serve_side_by_side
from benchmarks.machine import revision, versions

_MODELS = ("bi_encoder", "cross_encoder", "ranker", "theme_llm", "keyword_llm", "gates")
_BUILD = ("catalogue", "store", "index", "lexical", "topics", "behaviour")
_OF_SIZE = ("generate", *_BUILD, "recall")
SERVE = "serve"
PARTS = (*_OF_SIZE, SERVE)
_RECALL_SEARCHES, _K = 200, 100
_MOST_RATIO, _LEAST_RECALL, _MOST_MB = 1.3, 0.98, 8 * 1024
_console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True, help="finished build whose models are used")
    parser.add_argument("--out", type=Path, required=True, help="folder of catalogues, builds and results")
    parser.add_argument(
        "--sizes",
        type=lambda text: [numbers.count(each) for each in text.split(",")],
        default=[10_000, 100_000, 1_000_000],
        help="numbers of products (default: 10000,100000,1000000)",
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, help="measure these parts, even if they were before")
    parser.add_argument("--inside", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside == SERVE:
        folders = {size: options.out / str(size) for size in options.sizes}
        print(json.dumps(serve_side_by_side(folders, _console)))
        return 0
    if options.inside:
        print(json.dumps(_measured(options.inside, options.build, options.out, options.sizes[0])))
        return 0
    wanted = options.only or PARTS
    for size in options.sizes:
        known = _read(options.out, size)
        for part in _OF_SIZE:
            if part in wanted and (options.only or part not in known):
                _console.print(f"{size:,} products: {part}", highlight=False)
                found = _in_process(part, options.build, options.out, [size])
                _keep(options.out, size, part, found)
    if SERVE in wanted and (options.only or any(SERVE not in _read(options.out, size) for size in options.sizes)):
        _console.print("all sizes: serve", highlight=False)
        for size, found in _in_process(SERVE, options.build, options.out, options.sizes).items():
            _keep(options.out, int(size), SERVE, found)
    report = _report({size: _read(options.out, size) for size in options.sizes})
    (options.out / "growth.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    text = _markdown(report)
    (options.out / "growth.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _results(out: Path, size: int) -> Path:
    folder = out / str(size)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "results.json"


def _read(out: Path, size: int) -> dict[str, Any]:
    path = _results(out, size)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _keep(out: Path, size: int, part: str, found: dict[str, Any]) -> None:
    known = _read(out, size) | {part: found}
    _results(out, size).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def _in_process(part: str, build: Path, out: Path, sizes: Sequence[int]) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.bench_growth", "--build", str(build), "--out", str(out)]
    words += ["--sizes", ",".join(map(str, sizes)), "--inside", part]
    answer = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(json.loads(answer.splitlines()[-1]))


def _measured(part: str, build: Path, out: Path, size: int) -> dict[str, Any]:
    """Run a part; its figures, with its seconds and the most memory of its process."""
    folder = out / str(size)
    started = time.monotonic()
    if part == "generate":
        write_growth_catalogue(folder / "catalogue", size)
        _encoder(build, out)
        found: dict[str, Any] = {}
    elif part in _BUILD:
        found = _step(part, build, out, folder)
    else:
        found = _recall(folder)
    found |= {"seconds": round(time.monotonic() - started, 1)}
    # The most of this process; pages of mapped files that it has read are counted, although they can be given back.
    return {"peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024), **found}


def _encoder(build: Path, out: Path) -> WordEncoder:
    return WordEncoder.open(out / "words.npz", BiEncoder(build / "bi_encoder"))


def _step(name: str, build: Path, out: Path, folder: Path) -> dict[str, Any]:
    target = folder / "build"
    for model in _MODELS:
        if not (target / model).exists():
            shutil.copytree(build / model, target / model)
    encoder = _encoder(build, out) if name == "store" else None

    def run_store(ctx: BuildContext, settings: StoreSettings) -> dict[str, Any]:
        assert encoder is not None
        return write_store(ctx, settings, encoder)

    pipeline = Pipeline(_steps(run_store), target, folder / "catalogue", console=_console)
    return dict(pipeline.run(name, force=True)["steps"][name]["figures"])


def _steps(run_store: Callable[[BuildContext, StoreSettings], dict[str, Any]]) -> list[Step]:
    """The build's steps that grow with the catalogue and train no model; each is run by itself."""
    of_store = replace(store.STEP, run=run_store)
    steps = (catalogue.STEP, captions.STEP, of_store, index.STEP, lexical.STEP, topics.STEP, behaviour.STEP)
    return [replace(step, needs=()) for step in steps]


def _recall(folder: Path) -> dict[str, Any]:
    """Recall@100 of the index for searches that no step has seen, among all products and among those in stock."""
    items = ItemStore.open(folder / "build")
    found = VectorIndex.read(folder / "build" / "index" / "products.faiss")
    encoder = BiEncoder(folder / "build" / "bi_encoder")
    unseen = json.loads((folder / UNSEEN).read_text(encoding="utf-8"))[:_RECALL_SEARCHES]
    searches = encoder.encode(unseen, "query")
    answer: dict[str, Any] = {}
    for name, allowed in (("recall_at_100", None), ("recall_at_100_in_stock", np.asarray(items.in_stock))):
        vectors = items.vectors if allowed is None else items.vectors[allowed]
        wanted = index.nearest_by_product(searches, vectors, _K)
        if allowed is not None:
            wanted = np.flatnonzero(allowed)[wanted]
        filtered = None if allowed is None else AllowedRows.of(allowed)
        rows, _ = found.search(searches, _K, filtered)
        answer[name] = float(np.mean([len(np.intersect1d(a, b)) / _K for a, b in zip(rows, wanted, strict=True)]))
    return answer


def _report(results: dict[int, dict[str, Any]]) -> dict[str, Any]:
    first = next(iter(results.values()))
    rows = []
    for size, found in results.items():
        steps = {name: found[name] for name in _BUILD if name in found}
        served = found.get("serve", {})
        row: dict[str, Any] = {
            "products": size,
            "build_s": round(sum(each["seconds"] for each in steps.values()), 1),
            "build_of_s": {name: each["seconds"] for name, each in steps.items()},
            "build_peak_mb": max((each["peak_mb"] for each in steps.values()), default=0),
            "build_peak_of_mb": {name: each["peak_mb"] for name, each in steps.items()},
            "index": found.get("index", {}).get("products", {}).get("kind", ""),
            **{name: value for name, value in found.get("recall", {}).items() if name.startswith("recall")},
            **{name: value for name, value in served.items() if name not in ("seconds", "peak_mb")},
        }
        for kind in ("search", "page"):
            name = f"{kind}_p50_ms"
            if name in served and name in first.get("serve", {}):
                row[f"{kind}_ratio"] = round(served[name] / first["serve"][name], 3)
        rows.append(row)
    revised = revision(Path(__file__).parent)
    cores = len(os.sched_getaffinity(0))
    return {"rows": rows, "machine": {"cores": cores, "commit": revised, "versions": versions()}}


def _markdown(report: dict[str, Any]) -> str:
    columns: dict[str, tuple[str, Callable[[Any], str]]] = {
        "products": ("products", lambda value: f"{value:,}"),
        "build_s": ("build, s", str),
        "build_peak_mb": ("most memory of a step, MB", str),
        "recall_at_100": ("recall@100", lambda value: f"{value:.4f}"),
        "recall_at_100_in_stock": ("of those in stock", lambda value: f"{value:.4f}"),
        "search_p50_ms": ("search p50, ms", str),
        "search_ratio": ("ratio", str),
        "page_p50_ms": ("page p50, ms", str),
        "page_ratio": ("ratio", str),
        "memory_mb": ("memory of all processes, MB", str),
        "start_s": ("start, s", str),
    }
    lines = ["| " + " | ".join(title for title, _ in columns.values()) + " |", "|---" * len(columns) + "|"]
    for row in report["rows"]:
        shown = (text(row[name]) if name in row else "" for name, (_, text) in columns.items())
        lines.append("| " + " | ".join(shown) + " |")
    last = report["rows"][-1]
    for name, limit, most in (
        ("search_ratio", _MOST_RATIO, True),
        ("page_ratio", _MOST_RATIO, True),
        ("recall_at_100", _LEAST_RECALL, False),
        ("memory_mb", _MOST_MB, True),
        ("build_peak_mb", _MOST_MB, True),
    ):
        if name in last:
            met = last[name] <= limit if most else last[name] >= limit
            lines += [
                "",
                f"{name}: {last[name]}, {'at most' if most else 'at least'} {limit}: {'met' if met else 'not met'}",
            ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
