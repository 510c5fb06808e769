"""`endcap demo`: builds the demo shop in an empty folder, starts a real server, and prints pages."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
from endcap_server.launch import Server, ServerOptions
from rich.console import Console

from endcap_builders.catalogue import Catalogue, read_catalogue
from endcap_builders.catalogue.demo import generate_demo
from endcap_builders.gates import gate_figures, gates_table
from endcap_builders.pipeline import Pipeline
from endcap_builders.refresh import kept_models
from endcap_builders.step import BuildError
from endcap_builders.steps import all_steps

QUICK: dict[str, dict[str, Any]] = {
    # With the default rate, a teacher of so few steps can fail to learn: its order of held-out pairs was random.
    "teacher": {"max_pairs": 3000, "epochs": 1.0, "train_seconds": 50, "learning_rate": 5e-5},
    "cross_encoder": {"max_pairs": 3000, "mined_queries": 100, "train_seconds": 60},
    "theme_llm": {"train_seconds": 80},
    "keyword_llm": {"train_seconds": 40},
}
"""Settings with which the demo takes at most eight minutes, also on two slow cores. Its queries are easy to learn."""

_RULES = '{"boost": {"brand:%s": 1.5}, "max_per_brand": 3, "campaign": "autumn comfort"}'


def run_demo(build: Path, catalogue_folder: Path) -> int:
    """Generate, build, serve, send requests, print; existing results are reused. Returns the exit status."""
    console = Console(stderr=True)
    if not (catalogue_folder / "products.parquet").exists():
        console.print("generating the demo catalogue")
        generate_demo(catalogue_folder)
    manifest = Pipeline(all_steps(), build, catalogue_folder, overrides=QUICK, console=console).run()
    console.print(gates_table(gate_figures(manifest), kept_models(manifest)))
    catalogue = read_catalogue(catalogue_folder)
    console.print("starting Triton Inference Server")
    options = ServerOptions(build=build, grpc_port=0, http_port=0, metrics_port=0)
    with Server(options) as server:
        console.print(f"serving on {server.grpc_address}")
        for request in _requests(catalogue, build):
            command = ["endcap", "request", *request]
            print(f"\n$ {shlex.join(command)}", flush=True)
            full = [sys.executable, "-m", "endcap_client.cli", *command[1:], "--address", server.grpc_address]
            status = subprocess.run(full, check=False).returncode
            if status != 0:
                return status
    print(f"\nServe it yourself: endcap serve --build {build}")
    return 0


def _requests(catalogue: Catalogue, build: Path) -> list[list[str]]:
    """Requests of a regular shopper, a shopper with a session and rules, a new shopper, and two searches."""
    if catalogue.events is None or catalogue.queries is None:
        raise BuildError(f"{catalogue.folder} is not the demo catalogue: expected events.parquet and queries.parquet")
    shoppers = catalogue.events.filter(pl.col("type") == "purchase").group_by("user_id", maintain_order=True)
    histories = [frame["product_id"].to_list()[-12:] for _, frame in shoppers if frame.height >= 12][:2]
    queries = catalogue.queries["query"].to_list()[:40]
    brand = catalogue.products.filter(pl.col("brand") != "")["brand"].mode()[0]
    rules = build / "demo-rules.json"
    rules.write_text(_RULES % brand + "\n", encoding="utf-8")
    titles = ["--catalogue", str(catalogue.folder)]
    return [
        ["storefront", *_each("--history", histories[0]), *titles],
        ["storefront", *_each("--history", histories[1]), "--session", queries[3], "--rules", str(rules), *titles],
        ["storefront", "--placements", "2", *titles],
        ["search", "--query", queries[0], *titles],
        ["search", "--query", queries[7], *_each("--history", histories[0]), *titles],
    ]


def _each(option: str, values: list[str]) -> list[str]:
    return [part for value in values for part in (option, value)]
