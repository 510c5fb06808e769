"""`endcap demo`: builds the demo shop in an empty folder, starts a real server, prints pages, and writes them."""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from endcap_client import Client, EndcapError, Page, SearchRequest, SearchResult, StorefrontRequest
from endcap_client.products import embedded, read_products
from endcap_client.rendering import document_html
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
    "teacher": {"max_pairs": 3000, "epochs": 1.0, "train_seconds": 15, "learning_rate": 5e-5},
    "cross_encoder": {"max_pairs": 2000, "mined_queries": 20, "train_seconds": 15, "held_out_pairs": 500},
    "theme_llm": {"train_seconds": 50},
    "keyword_llm": {"train_seconds": 60},
    "postings": {"products": 16, "most_pairs": 20_000},
}
"""Settings with which the demo takes eight minutes on two slow cores.

The demo's queries are easy: vectors and words answer them so well that a cross-encoder needs several times this
training to be better. On slow cores the gates leave it out, and the build says so.
"""

DemoRequest = StorefrontRequest | SearchRequest
_TIMEOUT_S = 20.0


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
        requests = demo_requests(catalogue)
        for _, request in requests:
            command = ["endcap", "request", *_words(request, build), "--catalogue", str(catalogue.folder)]
            print(f"\n$ {shlex.join(command)}", flush=True)
            full = [sys.executable, "-m", "endcap_client.cli", *command[1:], "--address", server.grpc_address]
            status = subprocess.run(full, check=False).returncode
            if status != 0:
                return status
        pages = write_pages(server.grpc_address, requests, catalogue.folder, build / "demo-pages.html")
    print(f"\nThese pages as one HTML file: {pages}")
    print(f"See pages, rules, themes and outcomes in a browser: endcap studio --build {build}")
    print(f"Serve it yourself: endcap serve --build {build}")
    return 0


def demo_requests(catalogue: Catalogue) -> list[tuple[str, DemoRequest]]:
    """Requests of a regular shopper, a shopper with a session and rules, a new shopper, and two searches."""
    if catalogue.events is None or catalogue.queries is None:
        raise BuildError(f"{catalogue.folder} is not the demo catalogue: expected events.parquet and queries.parquet")
    shoppers = catalogue.events.filter(pl.col("type") == "purchase").group_by("user_id", maintain_order=True)
    histories = [frame["product_id"].to_list()[-12:] for _, frame in shoppers if frame.height >= 12][:2]
    queries = catalogue.queries["query"].to_list()[:40]
    brand = catalogue.products.filter(pl.col("brand") != "")["brand"].mode()[0]
    rules = {"boost": {f"brand:{brand}": 1.5}, "max_per_brand": 3, "campaign": "autumn comfort"}
    return [
        ("A regular shopper", StorefrontRequest(histories[0])),
        (
            f"Another one, who searched for “{queries[3]}”, with {brand} raised and an autumn campaign",
            StorefrontRequest(histories[1], session=[queries[3]], rules=rules),
        ),
        ("A new shopper", StorefrontRequest(placements=2)),
        ("A search of a new shopper", SearchRequest(queries[0])),
        ("A search of the regular shopper", SearchRequest(queries[7], history=histories[0])),
    ]


def _words(request: DemoRequest, build: Path) -> list[str]:
    """A request as words of `endcap request`."""
    words = ["search", "--query", request.query] if isinstance(request, SearchRequest) else ["storefront"]
    words += [part for product in request.history for part in ("--history", product)]
    if isinstance(request, StorefrontRequest):
        words += [part for text in request.session for part in ("--session", text)]
        words += (
            ["--placements", str(request.placements)] if request.placements != StorefrontRequest().placements else []
        )
    if request.rules:
        rules = build / "demo-rules.json"
        rules.write_text(json.dumps(request.rules) + "\n", encoding="utf-8")
        words += ["--rules", str(rules)]
    return words


def write_pages(address: str, requests: Sequence[tuple[str, DemoRequest]], catalogue: Path, file: Path) -> Path:
    """Write the answers to all requests as one HTML file."""
    products, answers = read_products(catalogue), list[tuple[str, Page | SearchResult]]()
    with Client(address, timeout_s=_TIMEOUT_S) as client:
        for heading, request in requests:
            asked = replace(request, explain=True)
            found = client.searches([asked]) if isinstance(asked, SearchRequest) else client.storefronts([asked])
            if isinstance(found[0], EndcapError):
                raise BuildError(f"the demo's server could not answer: {found[0]}")
            answers.append((heading, found[0]))
    ids = [
        product.product_id
        for _, answer in answers
        for place in (answer.placements if isinstance(answer, Page) else (answer,))
        for product in place.products
    ]
    file.write_text(document_html(answers, embedded(products, ids, catalogue), "The demo shop"), encoding="utf-8")
    return file
