"""Measures the first cut of a search: quality and time by the number of products that the cross-encoder reads.

    python -m benchmarks.first_cut --build BUILD [--queries SOURCE --labels SOURCE] [--cuts 0,60,40,30,20] [--served]

The stages and engines of `search` run in this process, with their default parameters but `search_cut`; a build needs
only the steps bi_encoder, store, index, lexical and cross_encoder. With `--served`, a real server of the build runs for
each cut. Every search is asked with each cut in turns, and no pair twice. The first cut of the list is what the others
are compared with, query by query; cut 0 reads all. Figures have 95 % bootstrap intervals over the queries: of the order
of judged products alone, and of the whole corpus. The last line is one JSON document.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from endcap_builders.evaluation.metrics import corpus_figures, judged_figures
from endcap_builders.evaluation.queries import Judged, read_judged
from endcap_builders.evaluation.request import EvaluationRequest, catalogue_of, context_of, judged_of
from endcap_builders.evaluation.summary import difference, estimate
from endcap_builders.evaluation.systems import RETURNED, Searched
from endcap_builders.intervals import bootstrap
from endcap_builders.relevance.data import read_labelled
from endcap_builders.relevance.labels import LabelScale, labels_of
from endcap_builders.step import BuildError
from endcap_client import Client, numbers
from endcap_server.declared.tensors import Tensors, bytes_tensor, texts_of
from endcap_server.engines.cross_encoder import CrossEncoder, CrossEncoderRequest
from endcap_server.engines.encoder_runtime import RuntimeOptions
from endcap_server.engines.nearest import Nearest, NearestRequest
from endcap_server.launch import Server, ServerOptions
from endcap_server.shop.store import ItemStore
from endcap_server.stages.fusion import Fusion
from endcap_server.stages.rerank import Rerank
from endcap_server.stages.retrieval import Retrieval
from endcap_server.stages.status import part_of
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.apply_sources import copy_build, parameter
from benchmarks.machine import revision, versions

_BUDGET_MS = np.array([30_000], np.int32)
_TIMEOUT_S = 60.0
_WARM_UP = ("first of all", "what else is there", "one more before it counts")
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

    def ask(self, query: str, products: int) -> tuple[list[str], int]:
        """Ids of the products, best first, and the number of pairs that the cross-encoder read."""
        return asyncio.run(self._ask(query, products))

    async def _ask(self, query: str, products: int) -> tuple[list[str], int]:
        tensors = await self._retrieval.run(
            {"QUERY": bytes_tensor([query]), "PRODUCTS": np.array([products], np.int32), "BUDGET_MS": _BUDGET_MS}
        )
        tensors |= {"THEMES": tensors["QUERY_THEMES"], "KEYWORDS": tensors["QUERY_KEYWORDS"]}
        tensors |= await self._rerank.run(tensors)
        pairs = int(part_of(tensors["RERANK_STATUS"])["pairs"])
        tensors |= await self._fusion.run(tensors)
        return [text for text in texts_of(tensors["FIRST_PRODUCT_ID"]) if text], pairs


class ServedSearches:
    """`search` of a server."""

    def __init__(self, client: Client):
        self._client = client

    def ask(self, query: str, products: int) -> tuple[list[str], int]:
        """See `Searches.ask`."""
        found = self._client.search(query, products=products, budget_ms=int(_BUDGET_MS[0]))
        return [product.product_id for product in found.products], found.status.document["stages"]["rerank"]["pairs"]


@contextmanager
def searches_by_cut(options: argparse.Namespace, folder: Path) -> Iterator[dict[int, Searches | ServedSearches]]:
    """What answers with each cut; servers run on copies of the build in `folder`."""
    if not options.served:
        engines = LocalEngines(options.build, options.cross_encoder or options.build / "cross_encoder")
        yield {cut: Searches(options.build, engines, cut) for cut in options.cuts}
        return
    with ExitStack() as running:
        served: dict[int, Searches | ServedSearches] = {}
        for cut in options.cuts:
            copy = copy_build(options.build, folder / str(cut))
            parameter("rerank", "search_cut", str(cut))(copy)
            asked = ServerOptions(build=copy, grpc_port=0, http_port=0, metrics_port=0)
            address = running.enter_context(Server(asked)).grpc_address
            served[cut] = ServedSearches(running.enter_context(Client(address, timeout_s=_TIMEOUT_S)))
            for text in _WARM_UP:
                served[cut].ask(text, RETURNED)
        yield served


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--build", type=Path, required=True)
    add("--queries", type=Path, help="queries.parquet, or its folder (default: held-out queries of the catalogue)")
    add("--labels", type=Path, help="labels.parquet, or its folder")
    add("--split", default="dev", help="of the queries, if they have splits (default: %(default)s)")
    add("--max-queries", type=numbers.count_or_none, default=0, help="most queries (default: all)")
    add("--cross-encoder", type=Path, help="folder of another cross-encoder with the same tokenizer")
    add(
        "--cuts",
        type=lambda text: [numbers.count_or_none(each) for each in text.split(",")],
        default=[0, 60, 40, 30, 20],
        help="values of search_cut (default: 0,60,40,30,20)",
    )
    add("--served", action="store_true", help="ask a server of the build for each cut")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".first-cut-", dir=options.build.parent) as name:
        folder = Path(name)
        if not options.served:
            os.environ["ENDCAP_RUN_DIR"] = name
        try:
            with searches_by_cut(options, folder) as searches:
                found = measure(options, searches)
        except BuildError as error:
            parser.exit(1, f"first_cut: {error}\n")
    print_table(found)
    print(json.dumps(found))


def measure(options: argparse.Namespace, searches: Mapping[int, Searches | ServedSearches]) -> dict[str, Any]:
    """Ask every query with every cut, in turns; the figures of each cut."""
    store = ItemStore.open(options.build)
    judged = _judged(options, store).sample(options.max_queries, 0)
    ranked: dict[int, list[np.ndarray]] = {cut: [] for cut in options.cuts}
    pairs: dict[int, list[int]] = {cut: [] for cut in options.cuts}
    ms: dict[int, list[float]] = {cut: [] for cut in options.cuts}
    for number, query in enumerate(track(judged.pairs.queries, "searches", console=_console)):
        turn = number % len(options.cuts)
        for cut in [*options.cuts[turn:], *options.cuts[:turn]]:
            start = time.perf_counter()
            products, read = searches[cut].ask(query, RETURNED)
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
            "ms_ratio": _ratio(np.array(ms[cut]), np.array(ms[slow])),
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
        table.add_row(str(row["cut"]), f"{row['pairs']:g}", f"{row['ms']:g}", _text(row["ms_ratio"]), *cells)
    _console.print(table)


def _text(figure: dict[str, Any], sign: str = "") -> str:
    if "value" not in figure:
        return "-"
    return f"{figure['value']:{sign}.4f} [{figure['low']:{sign}.3f}, {figure['high']:{sign}.3f}]"


def _ratio(ms: np.ndarray, slow: np.ndarray) -> dict[str, float]:
    """Ratio of the medians of two series float64 [q], with its interval."""
    return bootstrap(lambda rows: np.median(ms[rows], axis=1) / np.median(slow[rows], axis=1), len(ms), 0).document()


def _judged(options: argparse.Namespace, store: ItemStore) -> Judged:
    """The queries of the files that the catalogue does not have, or those that training held out."""
    catalogue = catalogue_of(options.build)
    if options.queries is not None and options.labels is not None:
        ids = pl.Series("product_id", list(store.product_ids), dtype=pl.String)
        file = catalogue / "queries.parquet"
        seen = pl.read_parquet(file)["query"].to_list() if file.exists() else []
        return read_judged(options.queries, options.labels, options.split, ids, LabelScale.parse(""), seen)
    request = EvaluationRequest(options.build, catalogue, options.queries, options.labels)
    ctx = context_of(request, _console)
    labels = labels_of(ctx.input("teacher"))
    scale = LabelScale.parse(labels["label_values"])
    labelled = read_labelled(ctx, store, labels["weak_queries"], labels["held_out_share"], scale)
    return judged_of(request, labelled, store, scale)


if __name__ == "__main__":
    main()
