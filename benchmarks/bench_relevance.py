"""Order of search results by a build's models: random, BM25, bi-encoder, teacher, and the student as it is served.

    python -m benchmarks.bench_relevance --build build/demo
    python -m benchmarks.bench_relevance --build build/mine --queries FOLDER --labels FOLDER --split dev

Without files it is measured on the judged queries that training held out. nDCG@10, pairwise accuracy, Spearman and
recall@100, each with a bootstrap interval over queries. The last line of the output is one JSON document.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from endcap_builders.evaluation.command import run_built
from endcap_builders.evaluation.metrics import NAMES
from endcap_builders.evaluation.report import interval_text
from endcap_builders.evaluation.request import EvaluationRequest
from endcap_builders.manifest import read_manifest
from endcap_builders.step import BuildError
from endcap_client import numbers
from rich.console import Console
from rich.table import Table


def main() -> None:
    parser = argparse.ArgumentParser(description="Order of search results by the models of a build.")
    add = parser.add_argument
    add("--build", type=Path, default=Path("build/demo"), help="a build (default: %(default)s)")
    add("--catalogue", type=Path, help="its catalogue (default: as when it was built)")
    add("--queries", type=Path, help="queries.parquet, or its folder (default: held-out queries of the catalogue)")
    add("--labels", type=Path, help="labels.parquet, or its folder")
    add("--split", default="dev", help="of the queries, if they have splits (default: %(default)s)")
    add("--max-queries", type=numbers.count_or_none, default=0, help="most queries (default: all)")
    add(
        "--corpus-queries",
        type=numbers.count_or_none,
        default=50,
        help="of which the whole corpus is ranked (default: %(default)s)",
    )
    options = parser.parse_args()
    catalogue = options.catalogue or Path(read_manifest(options.build).get("catalogue", {}).get("folder", ""))
    request = EvaluationRequest(
        options.build,
        catalogue,
        options.queries,
        options.labels,
        options.split,
        overrides={"evaluate": {"max_queries": options.max_queries, "corpus_queries": options.corpus_queries}},
    )
    try:
        report = run_built(request)
    except BuildError as error:
        sys.exit(f"bench_relevance: {error}")
    print_table(report)
    print(json.dumps({"benchmark": "relevance", "names": NAMES, **report}))


def print_table(report: dict[str, Any]) -> None:
    """Figures of every system."""
    asked = report["queries"]
    table = Table(title=f"{asked['queries']} queries, {asked['pairs']} judged products: {asked['source']}")
    for column in ("", *NAMES.values()):
        table.add_column(column)
    for system, row in report["systems"].items():
        table.add_row(system, *(interval_text(row["figures"].get(name, {})) for name in NAMES))
    Console().print(table)


if __name__ == "__main__":
    main()
