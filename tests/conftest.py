"""Fixtures that all tests share: a small build of the demo shop, and the real server on it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes is the machine's affair.
settings.register_profile("endcap", deadline=None)
settings.load_profile("endcap")

ROOT = Path(__file__).resolve().parents[1]

# Without a GPU, kernels are interpreted on the CPU. Triton decides that when it is first imported, whoever does.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Tests start programs while gRPC's threads are at work, and its handling of a fork may end the new process at once.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

SMALL_BUILD: dict[str, dict[str, Any]] = {
    # A month is kept aside, so that pages can be measured by what was bought then.
    "catalogue": {"events_until": "2026-09-30"},
    "merchandising": {"pages": 700, "keyword_choices": 500, "fit_themes": 150},
    "teacher": {"max_pairs": 900, "layers": 2, "train_seconds": 10},
    "cross_encoder": {"max_pairs": 900, "mined_queries": 20, "layers": 2, "train_seconds": 10},
    "theme_llm": {"hidden": 192, "layers": 3, "heads": 3, "train_tokens": 150_000, "held_out": 16},
    "keyword_llm": {"hidden": 128, "layers": 2, "heads": 2, "train_tokens": 60_000, "held_out": 16},
    "ranker": {"trees": 20},
    # Models trained for seconds do not always beat simple things, and tests want to see them serve.
    "gates": {"mode": "warn"},
}
"""Settings that build a small shop in about two minutes: the same code as the demo's, trained for less long."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="every kill and every mutation, where the default tries a sample of them"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs the finished build or a real server; leave out the tests marked `long` unless they are asked for.

    `make test` runs the marked tests in one process, one after the other, and all others in several.
    """
    left_out = [] if config.getoption("--long") else [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "build" in fixtures or item.path.is_relative_to(ROOT / "tests/real"):
            item.add_marker(pytest.mark.server)


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
