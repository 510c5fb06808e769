"""Measures pages with and without postings: time, pairs that the cross-encoder scores, and what the pages show.

    python -m benchmarks.postings --build BUILD [--shoppers 20] [--online 0,16,64]

The stages and engines of `storefront` run in this process with their default parameters but `online_pairs`. Retrieval,
theme and keywords run once for each shopper of the build's catalogue; then rerank and fusion make the page with each
value of `online_pairs` in turns, -1 (no postings) among them, without a cache of scores. Relevance is that of the shown
products of generated themes, by the cross-encoder: with the name of the kind if the theme names it, else with the best
of the theme's keywords. The last line is one JSON document.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from endcap_builders.manifest import read_manifest
from endcap_client import numbers
from endcap_server.declared.tensors import Tensors, bytes_tensor, texts_of
from endcap_server.engines.cross_encoder import CrossEncoder, CrossEncoderRequest, CrossEncoderResult
from endcap_server.engines.local import LocalEngines
from endcap_server.ensembles import STAGES, STOREFRONT
from endcap_server.shop.facts import FOLDER_VARIABLE
from endcap_server.shop.kinds import Kinds
from endcap_server.shop.postings import Postings
from endcap_server.shop.store import ItemStore
from endcap_server.stages.base import Stage
from endcap_server.stages.documents import KeywordRows, Themes
from endcap_server.stages.status import part_of
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.machine import revision, versions

_OFF = -1
_LEAST_HISTORY, _MOST_HISTORY = 10, 200
_BUDGET_MS = 600_000
_NOBODY_WAITS = {"max_in_flight": 0, "max_budget_ms": _BUDGET_MS, "recorded_requests": 0}
_console = Console(stderr=True)


class Engines(LocalEngines):
    """The engines of `storefront` in this process; `pairs` counts what the cross-encoder has scored."""

    def __init__(self, build: Path):
        super().__init__(build, {})
        self._cross_encoder = CrossEncoder(build / "cross_encoder", ItemStore.open(build))
        self.pairs = 0

    async def call(self, engine: str, inputs: Tensors, deadline_ns: int, outputs: tuple[str, ...]) -> Tensors:
        """Answer one request to `engine`; see `endcap_server.stages.base.Engines`."""
        if engine != "cross_encoder":
            return await super().call(engine, inputs, deadline_ns, outputs)
        answer = self.score(texts_of(inputs["TEXT"]), inputs["ROW"])
        self.pairs += int((inputs["ROW"] >= 0).sum())
        return {"SCORE": answer.scores, "MARGIN": answer.margins}

    def score(self, texts: Sequence[str], rows: np.ndarray) -> CrossEncoderResult:
        """Scores of texts [T] and products int32 [T, M]."""
        (answer,) = self._cross_encoder.run([CrossEncoderRequest(texts, rows)])
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class Found:
    """Of one value of `online_pairs`, of each page: times, pairs, shown products, and their relevance."""

    ms: list[float] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)
    postings: list[float] = field(default_factory=list)
    shown: list[set[str]] = field(default_factory=list)
    relevance: list[float] = field(default_factory=list)


class Pages:
    """Makes pages of a build with several values of `online_pairs`."""

    def __init__(self, build: Path, online: Sequence[int]):
        self.engines = Engines(build)
        self._store = ItemStore.open(build)
        self._kinds = Kinds.open(build, self._store)
        self._front = [self._stage(build, name) for name in ("retrieval", "theme", "keywords")]
        self._reranks = {each: self._stage(build, "rerank", online_pairs=each) for each in online}
        self._fusion = self._stage(build, "fusion", record_exposures=False)
        self._steps = {step.stage.name: step for step in STOREFRONT.steps}
        self.found = {each: Found() for each in online}
        self.before_ms: list[float] = []

    def _stage(self, build: Path, name: str, **changed: Any) -> Stage:
        own = _NOBODY_WAITS if name == "retrieval" else {}
        return STAGES[name](build, STAGES[name].declaration.parameters(**own, **changed), self.engines)

    async def make(self, history: Sequence[str], turn: int) -> None:
        """The page of a shopper with every value; begins with another one in each turn."""
        start = time.perf_counter()
        tensors: Tensors = {"HISTORY": bytes_tensor(history), "BUDGET_MS": np.array([_BUDGET_MS], np.int32)}
        for stage in self._front:
            tensors = await self._run(stage, tensors)
        self.before_ms.append(1e3 * (time.perf_counter() - start))
        values = list(self.found)
        for value in values[turn % len(values) :] + values[: turn % len(values)]:
            found, before, start = self.found[value], self.engines.pairs, time.perf_counter()
            after = await self._run(self._reranks[value], tensors)
            page = await self._run(self._fusion, after)
            found.ms.append(1e3 * (time.perf_counter() - start))
            found.pairs.append(self.engines.pairs - before)
            part = part_of(after[self._steps["rerank"].outputs["RERANK_STATUS"]])
            found.postings.append(part.get("relevance_from", {}).get("postings", 0) / max(part["pairs"], 1))
            titles = texts_of(page[self._steps["fusion"].outputs["THEME_OUT"]])
            lists = page[self._steps["fusion"].outputs["PRODUCT_ID"]]
            shown = {
                title: [text for text in texts_of(line) if text] for title, line in zip(titles, lists, strict=True)
            }
            found.shown.append({product for line in shown.values() for product in line})
            found.relevance += self._relevance(shown, tensors)

    async def _run(self, stage: Stage, tensors: Tensors) -> Tensors:
        step = self._steps[stage.name]
        outputs = await stage.run({own: tensors[name] for own, name in step.inputs.items() if name in tensors})
        return tensors | {name: outputs[own] for own, name in step.outputs.items() if own in outputs}

    def _relevance(self, shown: dict[str, list[str]], tensors: Tensors) -> list[float]:
        inputs = self._steps["rerank"].inputs
        themes, rows = Themes.read(tensors[inputs["THEMES"]]), KeywordRows.read(tensors[inputs["KEYWORDS"]]).array
        found: list[float] = []
        for place, title in enumerate(themes.titles):
            keywords = rows[place][rows[place] >= 0].tolist()
            if not title or title not in shown or not keywords:
                continue
            products = self._store.product_ids.find(shown[title])
            texts = list(self._store.keywords.take(keywords))
            best = self.engines.score(texts, np.tile(products, (len(texts), 1))).scores.max(axis=0)
            named = np.isin(self._kinds.of_product[products], self._kinds.named(themes.about(place)))
            if named.any():
                names = [self._kinds.names[kind] for kind in self._kinds.of_product[products[named]].tolist()]
                best[named] = self.engines.score(names, products[named][:, None]).scores[:, 0]
            found += best.tolist()
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True, help="finished build with postings")
    parser.add_argument("--shoppers", type=numbers.count, default=20, help="pages (default: %(default)s)")
    parser.add_argument(
        "--online",
        type=lambda text: [numbers.count_or_none(each) for each in text.split(",")],
        default=[0, 16, 64],
        help="values of online_pairs, besides -1 (default: 0,16,64)",
    )
    options = parser.parse_args()
    if not Postings.open(options.build, ItemStore.open(options.build)).known:
        parser.error(f"{options.build}: expected a build with postings, got none; run endcap build")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ENDCAP_RUN_DIR"] = folder
        os.environ[FOLDER_VARIABLE] = f"{folder}/facts"
        found = measure(options.build, options.shoppers, [_OFF, *options.online])
    print_table(found)
    print(json.dumps(found))


def measure(build: Path, shoppers: int, online: Sequence[int]) -> dict[str, Any]:
    """The pages of `shoppers` with each value of `online_pairs`, in turns."""
    pages = Pages(build, online)
    for turn, history in enumerate(track(_histories(build, shoppers), "pages", console=_console)):
        asyncio.run(pages.make(history, turn))
    pages.engines.close()
    off = pages.found[_OFF]
    return {
        "benchmark": "postings",
        "build": str(build),
        "pages": len(off.ms),
        "before_ms": round(float(np.median(pages.before_ms)), 1),
        "revision": revision(Path(__file__).parent),
        "versions": versions(),
        "rows": [
            {
                "online_pairs": value,
                "ms": round(float(np.median(each.ms)), 1),
                "ms_ratio": round(float(np.median(np.array(each.ms) / np.array(off.ms))), 3),
                "pairs": float(np.median(each.pairs)),
                "postings": round(float(np.mean(each.postings)), 3),
                "equal_products": round(
                    float(np.mean([len(a & b) / max(len(b), 1) for a, b in zip(each.shown, off.shown, strict=True)])), 3
                ),
                "relevance": round(float(np.mean(each.relevance)), 4) if each.relevance else None,
            }
            for value, each in pages.found.items()
        ],
    }


def _histories(build: Path, count: int) -> list[list[str]]:
    """Histories of shoppers with enough events before the build's cut, spread over all of them."""
    manifest = read_manifest(build)
    events = pl.read_parquet(Path(manifest["catalogue"]["folder"]) / "events.parquet").sort("timestamp")
    products = events.group_by("user_id", maintain_order=True).agg("product_id")
    known = products.filter(pl.col("product_id").list.len() >= _LEAST_HISTORY).sort("user_id")["product_id"].to_list()
    step = max(len(known) // count, 1)
    return [history[-_MOST_HISTORY:] for history in known[::step][:count]]


def print_table(found: dict[str, Any]) -> None:
    """Time, work and content of the pages by `online_pairs`."""
    title = f"{found['pages']} pages; retrieval, theme and keywords take {found['before_ms']} ms"
    table = Table(title=title, title_justify="left")
    names = ("online_pairs", "ms", "ms_ratio", "pairs", "postings", "equal_products", "relevance")
    for name in names:
        table.add_column(name)
    for row in found["rows"]:
        table.add_row(*(str(row[name]) for name in names))
    _console.print(table)


if __name__ == "__main__":
    main()
