"""Measures the first cut of a search: quality and time by the number of products that the cross-encoder reads.

    python -m benchmarks.first_cut --build BUILD --queries SOURCE --labels SOURCE [--cuts 0,60,40,30,20]

The stages and engines of `search` run in this process, with their default parameters but `search_cut`. Every search is
asked with each cut in turns, without a cache of scores. A build needs only the steps bi_encoder, store, index, lexical
and cross_encoder. The first cut of the list is what the others are compared with, query by query; cut 0 reads all.
Figures have 95 % bootstrap intervals over the queries: of the order of judged products alone, and of the whole
corpus. The last line is one JSON document.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from endcap_builders.evaluation.metrics import corpus_figures, judged_figures
from endcap_builders.evaluation.queries import read_judged
from endcap_builders.evaluation.summary import difference, estimate
from endcap_builders.evaluation.systems import RETURNED, Searched
from endcap_builders.manifest import read_manifest
from endcap_builders.relevance.labels import LabelScale
from endcap_client import numbers
from endcap_server.declared.tensors import Tensors, bytes_tensor, texts_of
from endcap_server.engines.cross_encoder import CrossEncoder, CrossEncoderRequest
from endcap_server.engines.encoder_runtime import RuntimeOptions
from endcap_server.engines.nearest import Nearest, NearestRequest
from endcap_server.shop.store import ItemStore
from endcap_server.stages.fusion import Fusion
from endcap_server.stages.rerank import Rerank
from endcap_server.stages.retrieval import Retrieval
from endcap_server.stages.status import part_of
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.machine import revision, versions

_BUDGET_MS = np.array([30_000], np.int32)
_RELEVANT = 0.5
_console = Console(stderr=True)


class LocalEngines:
    """The engines of `search`, in this process; deadlines are ignored."""

    def __init__(self, build: Path, cross_encoder: Path):
        self._nearest = Nearest(build)
        self._cross_encoder = CrossEncoder(cross_encoder, ItemStore.open(build), RuntimeOptions())

    async def call(self, engine: str, inputs: Tensors, deadline_ns: int, outputs: tuple[str, ...]) -> Tensors:
        """Answer one request to `engine`; see `endcap_server.stages.base.Engines`."""
        answer: Any
        if engine == "nearest":
            (answer,) = self._nearest.run([
                NearestRequest(
                    texts=texts_of(inputs["TEXT"]) if "TEXT" in inputs else (),
                    vectors=inputs.get("VECTOR"),
                    index=texts_of(inputs["INDEX"])[0] if "INDEX" in inputs else None,
                    k=int(inputs["K"][0]) if "K" in inputs else 0,
                    allowed=inputs.get("ALLOWED"),
                )
            ])  # fmt: skip
            names = {"ROW": "rows", "SIMILARITY": "similarity", "VECTOR": "vectors", "EXACT": "exact"}
        else:
            (answer,) = self._cross_encoder.run([CrossEncoderRequest(texts_of(inputs["TEXT"]), inputs["ROW"])])
            names = {"SCORE": "scores", "MARGIN": "margins"}
        if isinstance(answer, Exception):
            raise answer
        return {name: getattr(answer, names[name]) for name in outputs}


class Searches:
    """`search` with one cut.

    Args:
        build: the build.
        engines: of the build.
        cut: `search_cut` of rerank.
    """

    def __init__(self, build: Path, engines: LocalEngines, cut: int):
        self._retrieval = Retrieval(build, {}, engines)
        self._rerank = Rerank(build, {"search_cut": str(cut)}, engines)
        self._fusion = Fusion(build, {}, engines)

    async def ask(self, query: str, products: int) -> tuple[list[str], int]:
        """Ids of the products, best first, and the number of pairs that the cross-encoder read."""
        tensors = await self._retrieval.run(
            {"QUERY": bytes_tensor([query]), "PRODUCTS": np.array([products], np.int32), "BUDGET_MS": _BUDGET_MS}
        )
        tensors |= {"THEMES": tensors["QUERY_THEMES"], "KEYWORDS": tensors["QUERY_KEYWORDS"]}
        tensors |= await self._rerank.run(tensors)
        pairs = int(part_of(tensors["RERANK_STATUS"])["pairs"])
        tensors |= await self._fusion.run(tensors)
        return [text for text in texts_of(tensors["FIRST_PRODUCT_ID"]) if text], pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--build", type=Path, required=True)
    add("--queries", type=Path, required=True, help="queries.parquet, or its folder")
    add("--labels", type=Path, required=True, help="labels.parquet, or its folder")
    add("--split", default="dev", help="of the queries, if they have splits (default: %(default)s)")
    add("--max-queries", type=numbers.count_or_none, default=0, help="most queries (default: all)")
    add("--cross-encoder", type=Path, help="folder of another cross-encoder with the same tokenizer")
    add(
        "--cuts",
        type=lambda text: [numbers.count_or_none(each) for each in text.split(",")],
        default=[0, 60, 40, 30, 20],
        help="values of search_cut (default: 0,60,40,30,20)",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ENDCAP_RUN_DIR"] = folder
        found = measure(options)
    print_table(found)
    print(json.dumps(found))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Ask every query with every cut, in turns; the figures of each cut."""
    store = ItemStore.open(options.build)
    ids = pl.Series("product_id", list(store.product_ids), dtype=pl.String)
    seen = _queries_of(Path(read_manifest(options.build)["catalogue"]["folder"]))
    judged = read_judged(options.queries, options.labels, options.split, ids, LabelScale.parse(""), seen)
    judged = judged.sample(options.max_queries, 0)
    engines = LocalEngines(options.build, options.cross_encoder or options.build / "cross_encoder")
    searches = {cut: Searches(options.build, engines, cut) for cut in options.cuts}
    ranked: dict[int, list[np.ndarray]] = {cut: [] for cut in options.cuts}
    pairs: dict[int, list[int]] = {cut: [] for cut in options.cuts}
    ms: dict[int, list[float]] = {cut: [] for cut in options.cuts}
    for number, query in enumerate(track(judged.pairs.queries, "searches", console=_console)):
        turn = number % len(options.cuts)
        for cut in [*options.cuts[turn:], *options.cuts[:turn]]:
            start = time.perf_counter()
            products, read = asyncio.run(searches[cut].ask(query, RETURNED))
            ms[cut].append(1e3 * (time.perf_counter() - start))
            rows = store.product_ids.find(products)
            ranked[cut].append(rows[rows >= 0].astype(np.int64))
            pairs[cut].append(read)
    figures = {}
    for cut in options.cuts:
        answers = Searched(ranked[cut], np.array(ms[cut]), 0, np.array(pairs[cut]))
        figures[cut] = judged_figures(judged, answers.scores(judged.pairs)) | corpus_figures(
            judged, answers.ranked, _RELEVANT
        )
    slow = options.cuts[0]
    table = [
        {
            "cut": cut,
            "pairs": float(np.median(pairs[cut])),
            "ms": round(float(np.median(ms[cut])), 1),
            "ms_ratio": round(float(np.median(np.array(ms[cut]) / np.array(ms[slow]))), 3),
            "figures": {name: estimate(values) for name, values in figures[cut].items()},
            "minus_first": {name: difference(values, figures[slow][name]) for name, values in figures[cut].items()},
        }
        for cut in options.cuts
    ]
    return {
        "benchmark": "first_cut",
        "build": str(options.build),
        "source": judged.source,
        "queries": len(judged.pairs.queries),
        "revision": revision(Path(__file__).parent),
        "versions": versions(),
        "rows": table,
    }


def print_table(found: dict[str, Any]) -> None:
    """Quality and cost of every cut."""
    names = ("ndcg", "ndcg_exponential", "corpus_ndcg", "corpus_ndcg_exponential", "corpus_recall")
    table = Table(title=f"{found['queries']} queries: {found['source']}")
    for column in ("cut", "pairs", "ms", "ratio", *names):
        table.add_column(column)
    for row in found["rows"]:
        cells = [_text(row["figures"][name]) + "\n" + _text(row["minus_first"][name], "+") for name in names]
        table.add_row(str(row["cut"]), f"{row['pairs']:g}", f"{row['ms']:g}", f"{row['ms_ratio']:g}", *cells)
    _console.print(table)


def _text(figure: dict[str, Any], sign: str = "") -> str:
    if "value" not in figure:
        return "-"
    return f"{figure['value']:{sign}.4f} [{figure['low']:{sign}.3f}, {figure['high']:{sign}.3f}]"


def _queries_of(catalogue: Path) -> Sequence[str]:
    """The queries of a catalogue, which its models may have seen."""
    file = catalogue / "queries.parquet"
    return pl.read_parquet(file)["query"].to_list() if file.exists() else []


if __name__ == "__main__":
    main()
