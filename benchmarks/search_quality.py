"""Search quality of a running server on judged queries, beside BM25, title-token overlap and random order.

    python -m benchmarks.search_quality --products P.parquet --queries Q.parquet --labels L.parquet --split dev

The files: products (product_id, title, optional description), queries (query_id, query, split), labels (query_id,
product_id, relevance). nDCG@10 with gains of two kinds: linear (the grade; unjudged 0) and exponential
(2^(grade - lowest grade) - 1). Two settings:

- whole corpus (default): each method ranks all products;
- `--judged-only`: each method orders the judged products of a query; those that the server does not return among its
  100 come last, in random order, averaged over several draws. For sets in which most good products are unjudged.

The last line of the output is one JSON document.
"""

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bm25s
import numpy as np
import polars as pl
from endcap_builders.intervals import bootstrap
from endcap_client import Client, numbers
from rich.console import Console
from rich.progress import track
from rich.table import Table

DEPTH = 10
RETURNED = 100
DRAWS = 20
DESCRIPTION_CHARACTERS = 2000
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class JudgedSearches:
    """Queries with their judged products."""

    query_ids: list[int]
    queries: list[str]
    grades: list[dict[str, float]]
    """Grade of each judged product by id, per query; repeated pairs averaged."""
    lowest: float


@dataclass(frozen=True)
class ProductTexts:
    """The corpus."""

    ids: list[str]
    titles: list[str]
    texts: list[str]
    """Title and the first characters of the description: what BM25 searches."""


Method = Callable[[str, list[str]], list[str]]
"""(query, ids to order; empty for the whole corpus) -> ids, best first; may leave out some."""


def read_judged(queries: Path, labels: Path, split: str) -> JudgedSearches:
    """The judged queries of a split."""
    chosen = pl.read_parquet(queries).filter(pl.col("split") == split).select("query_id", "query")
    grades = (
        pl.read_parquet(labels)
        .with_columns(pl.col("product_id").cast(pl.String), pl.col("relevance").cast(pl.Float64))
        .group_by("query_id", "product_id")
        .agg(pl.col("relevance").mean())
    )
    lowest = float(grades["relevance"].min())  # type: ignore[arg-type]
    joined = chosen.join(grades, on="query_id").sort("query_id", "product_id")
    if not joined.height:
        raise SystemExit(f"{labels}: expected judgements of the queries with split {split!r}, got none; check --split")
    parts = joined.partition_by("query_id", maintain_order=True)
    return JudgedSearches(
        [part["query_id"][0] for part in parts],
        [part["query"][0] for part in parts],
        [dict(part.select("product_id", "relevance").iter_rows()) for part in parts],
        lowest,
    )


def read_products(path: Path) -> ProductTexts:
    """The corpus, in the order of the file."""
    frame = pl.read_parquet(path).with_columns(pl.col("product_id").cast(pl.String))
    titles = frame["title"].fill_null("").to_list()
    more = frame["description"].fill_null("").to_list() if "description" in frame.columns else [""] * len(titles)
    texts = [f"{title} {text[:DESCRIPTION_CHARACTERS]}" for title, text in zip(titles, more, strict=True)]
    return ProductTexts(frame["product_id"].to_list(), titles, texts)


def gains(grades: np.ndarray, lowest: float, kind: str) -> np.ndarray:
    """Gain of each grade; 0 is an unjudged product."""
    if kind == "linear":
        return grades
    return np.where(grades > 0, 2.0 ** (np.maximum(grades, lowest) - lowest) - 1, 0.0)


def ndcg(found: np.ndarray, ideal: np.ndarray) -> float:
    """nDCG@10 of gains in ranked order; NaN if nothing could be gained."""
    discount = 1 / np.log2(np.arange(2, DEPTH + 2))
    best = np.sort(ideal)[::-1][:DEPTH]
    limit = float(best @ discount[: len(best)])
    top = found[:DEPTH]
    return float(top @ discount[: len(top)]) / limit if limit > 0 else float("nan")


def evaluate(
    judged: JudgedSearches, method: Method, kinds: tuple[str, ...], judged_only: bool
) -> dict[str, np.ndarray]:
    """nDCG@10 of each query: float64 [queries] for each kind of gain."""
    scores: dict[str, list[float]] = {kind: [] for kind in kinds}
    rng = np.random.default_rng(0)
    for query, grades in zip(judged.queries, judged.grades, strict=True):
        candidates = list(grades) if judged_only else []
        ranked = method(query, candidates)
        lists = [np.array([grades.get(product, 0.0) for product in ranked])]
        if judged_only:
            kept = [product for product in ranked if product in grades]
            left = np.array([grades[product] for product in grades if product not in set(kept)])
            head = np.array([grades[product] for product in kept])
            lists = [np.concatenate([head, rng.permutation(left)]) for _ in range(DRAWS if len(left) > 1 else 1)]
        ideal = np.array(list(grades.values()))
        for kind in kinds:
            best = gains(ideal, judged.lowest, kind)
            scores[kind].append(float(np.mean([ndcg(gains(grade, judged.lowest, kind), best) for grade in lists])))
    return {kind: np.array(values) for kind, values in scores.items()}


def served(client: Client, timeout_s: float, latencies: list[float], degraded: list[str]) -> Method:
    """The server's search."""

    def method(query: str, candidates: list[str]) -> list[str]:
        result = client.search(query, products=RETURNED, timeout_s=timeout_s)
        latencies.append(1000 * result.seconds)
        if result.status.degraded:
            degraded.append(query)
        return [product.product_id for product in result.products]

    return method


def bm25(products: ProductTexts) -> Method:
    """BM25 (k1 1.2, b 0.75) over title and description."""
    index = bm25s.BM25(k1=1.2, b=0.75)
    rng = np.random.default_rng(4)
    index.index(bm25s.tokenize(products.texts, show_progress=False), show_progress=False)
    row_of = {product: row for row, product in enumerate(products.ids)}

    def method(query: str, candidates: list[str]) -> list[str]:
        tokens = bm25s.tokenize([query], show_progress=False)
        if candidates:
            words = list(tokens.vocab)
            scores = index.get_scores(words) if words else np.zeros(len(products.ids))
            found = np.array([scores[row_of[product]] for product in candidates])
            return [candidates[place] for place in np.lexsort((rng.random(len(found)), -found))]
        rows, _ = index.retrieve(tokens, k=min(RETURNED, len(products.ids)), show_progress=False)
        return [products.ids[row] for row in rows[0]]

    return method


def overlap(products: ProductTexts) -> Method:
    """Share of the query's words in the title; ties in random order."""
    words = [set(_WORD.findall(title.lower())) for title in products.titles]
    row_of = {product: row for row, product in enumerate(products.ids)}
    rng = np.random.default_rng(1)

    def method(query: str, candidates: list[str]) -> list[str]:
        wanted = set(_WORD.findall(query.lower()))
        ids = candidates or products.ids
        shared = np.array([len(wanted & words[row_of[product]]) for product in ids])
        return [ids[place] for place in np.lexsort((rng.random(len(ids)), -shared))[: max(len(candidates), RETURNED)]]

    return method


def at_random(products: ProductTexts) -> Method:
    """Any order."""
    rng = np.random.default_rng(2)

    def method(query: str, candidates: list[str]) -> list[str]:
        if candidates:
            # Nothing is returned, so that all candidates are drawn, and averaged, by `evaluate`.
            return []
        return [products.ids[row] for row in rng.choice(len(products.ids), min(RETURNED, len(products.ids)), False)]

    return method


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over queries."""
    found = bootstrap(lambda rows: values[rows].mean(axis=1), len(values), seed=3)
    return found.low, found.high


def figures(scores: np.ndarray, baseline: np.ndarray | None) -> dict[str, float | list[float]]:
    """Mean, interval, and the difference to a baseline on the same queries."""
    known = ~np.isnan(scores)
    low, high = interval(scores[known])
    found: dict[str, float | list[float]] = {
        "mean": round(float(scores[known].mean()), 4),
        "interval": [round(low, 4), round(high, 4)],
        "queries": int(known.sum()),
    }
    if baseline is not None:
        low, high = interval((baseline - scores)[known])
        found["served_minus_this"] = round(float((baseline - scores)[known].mean()), 4)
        found["served_minus_this_interval"] = [round(low, 4), round(high, 4)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="nDCG@10 of a running server's search, beside simple methods.")
    parser.add_argument("--products", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--address", default="127.0.0.1:8001", help="HOST:PORT of the gRPC port (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=numbers.seconds, default=5.0, help="seconds a search may take (default: %(default)s)"
    )
    parser.add_argument("--judged-only", action="store_true", help="order the judged products only")
    parser.add_argument(
        "--max-queries", type=numbers.count_or_none, default=0, help="only so many queries (default: all)"
    )
    arguments = parser.parse_args()

    judged, products = (
        read_judged(arguments.queries, arguments.labels, arguments.split),
        read_products(arguments.products),
    )
    if arguments.max_queries:
        end = arguments.max_queries
        judged = JudgedSearches(judged.query_ids[:end], judged.queries[:end], judged.grades[:end], judged.lowest)
    kinds = ("linear", "exponential")
    latencies: list[float] = []
    degraded: list[str] = []
    console = Console(stderr=True)
    results: dict[str, dict[str, np.ndarray]] = {}
    with Client(arguments.address, timeout_s=arguments.timeout) as client:
        methods = {
            "served search": served(client, arguments.timeout, latencies, degraded),
            "BM25": bm25(products),
            "title-token overlap": overlap(products),
            "random": at_random(products),
        }
        for name, method in track(methods.items(), "methods", console=console):
            results[name] = evaluate(judged, method, kinds, arguments.judged_only)

    report = {
        name: {
            kind: figures(scores[kind], None if name == "served search" else results["served search"][kind])
            for kind in kinds
        }
        for name, scores in results.items()
    }
    setting = "judged products only" if arguments.judged_only else "whole corpus"
    table = Table(title=f"nDCG@10, {len(judged.queries)} {arguments.split} queries, {setting} (95 % interval)")
    for column in ("method", *kinds):
        table.add_column(column)
    for name, by_kind in report.items():
        cells = [f"{by_kind[kind]['mean']:.4f}  {by_kind[kind]['interval']}" for kind in kinds]
        table.add_row(name, *cells)
    Console().print(table)
    document = {
        "benchmark": "search_quality",
        "setting": setting,
        "split": arguments.split,
        "queries": len(judged.queries),
        "ndcg_at_10": report,
        "latency_ms": {f"p{share}": round(float(np.percentile(latencies, share)), 1) for share in (50, 95)},
        "queries_degraded": len(degraded),
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
