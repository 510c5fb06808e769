"""Fixtures that all tests share: a small build of the demo shop, and the real server on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SMALL_BUILD = {
    "teacher": {"train_seconds": 8},
    "cross_encoder": {"train_seconds": 10},
    "theme_llm": {"train_seconds": 20},
    "keyword_llm": {"train_seconds": 15},
}
"""Settings that build a small shop in about two minutes: the same code as the demo's, trained for less long."""


@pytest.fixture(scope="session")
def build() -> Path:
    """A finished build of a small demo catalogue; kept in build/test, and made again only when something changed."""
    from endcap_builders.catalogue.demo import generate_demo
    from endcap_builders.pipeline import Pipeline
    from endcap_builders.steps import all_steps

    catalogue, folder = ROOT / "build/catalogues/test", ROOT / "build/test"
    if not (catalogue / "products.parquet").exists():
        generate_demo(catalogue, products=1500, shoppers=400, queries=3000)
    Pipeline(all_steps(), folder, catalogue, overrides=SMALL_BUILD).run()
    return folder


@pytest.fixture(scope="session")
def server(build: Path) -> Iterator[object]:
    """The real server on the small build, on free ports."""
    from endcap_server.launch import Server, ServerOptions

    with Server(ServerOptions(build=build, grpc_port=0, http_port=0, metrics_port=0)) as running:
        yield running
