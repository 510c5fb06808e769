import asyncio
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from endcap_client import AsyncClient, Client

sys.path.insert(0, str(Path(__file__).parent))

from fake_server import Service, serving, texts

STATUS = {
    "stages": {
        "retrieval": {"source": "computed", "ms": 3.5, "aiqa": {}},
        "theme": {"source": "fallback", "ms": 40.0, "reason": "theme_llm: no answer in time", "aiqa": {"word_list": 2}},
    },
    "signals": ["relevance", "ranker"],
    "versions": {"catalogue": "c0ffee"},
    "unknown_products": 1,
}


class BlockingClient:
    """`AsyncClient` in a loop of its own, so that one test can be told to both clients."""

    def __init__(self, *arguments, **options):
        self._client = AsyncClient(*arguments, **options)
        self._runner = asyncio.Runner()
        self._run = self._runner.run

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        self._runner.run(self._client.close())
        self._runner.close()
        # What is asked after that gets its answer from a client that is closed, not from a loop that is.
        self._run = asyncio.run

    def __getattr__(self, name):
        value = getattr(self._client, name)
        if not callable(value):
            return value
        return lambda *arguments, **options: self._run(value(*arguments, **options))


@pytest.fixture(params=[Client, BlockingClient], ids=["sync", "asyncio"])
def both_clients(request, monkeypatch):
    """Makes `Client` in the test's module the one and then the other."""
    monkeypatch.setattr(request.module, "Client", request.param)


@pytest.fixture
def service() -> Service:
    """Answers a page of two placements, the second one product short, and searches with its first row."""
    service = Service()
    service.outputs = {
        "THEME": texts(["Rainy days", "Tea & cake"]),
        "KEYWORDS": texts([["umbrella", "rain coat"], ["teapot", ""]]),
        "PRODUCT_ID": texts([["p1", "p2", "p3"], ["p4", "p5", ""]]),
        "SCORE": np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.0]], np.float32),
        "SIGNALS": np.arange(12, dtype=np.float32).reshape(2, 3, 2),
        "STATUS": texts([json.dumps(STATUS)]),
    }
    return service


@pytest.fixture
def search_service(service: Service) -> Service:
    service.outputs = {name: service.outputs[name] for name in ("PRODUCT_ID", "SCORE", "SIGNALS", "STATUS")} | {
        name: service.outputs[name][1] for name in ("PRODUCT_ID", "SCORE", "SIGNALS")
    }
    return service


@pytest.fixture
def address(service: Service) -> Iterator[str]:
    with serving(service) as address:
        yield address


@pytest.fixture
def closed_port() -> str:
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
