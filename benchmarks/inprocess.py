"""Both ensembles in one process: the steps of their `config.pbtxt`, run one after another, with any engines.

The naive baseline passes naive engines; the profile passes engines that are called over gRPC and timed. The stages' own
code is the same in both, so that answers can be compared.
"""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from endcap_server.declared.tensors import Tensors, bytes_tensor, json_of, texts_of
from endcap_server.ensembles import STAGES
from endcap_server.stages.base import Engines, Stage
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from benchmarks.replay import ReplayedRequest


@dataclass(frozen=True)
class InProcessShelf:
    """One placement of an answer, or the only one of a search: `products` best first, with their scores."""

    theme: str
    keywords: tuple[str, ...]
    products: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class InProcessAnswer:
    """The answer to a request, from the system or from the baseline."""

    shelves: tuple[InProcessShelf, ...]
    status: dict[str, Any]
    seconds: float
    stage_ms: dict[str, float] = field(default_factory=dict)

    @property
    def degraded(self) -> list[str]:
        """Stages that used their fallback, for all or some of their items."""
        return list(self.status.get("degraded", ()))


class InProcessShop:
    """Runs `storefront` and `search` of a build in this process.

    Args:
        build: A finished build; the stages' parameters and the ensembles' steps are read from its repository.
        engines: Answers the stages' calls to engines.
    """

    def __init__(self, build: Path, engines: Engines):
        self._ensembles = {name: read_config(build, name) for name in ("storefront", "search")}
        self._stages = {name: _stage(build, name, engines) for name in STAGES}
        self._loop = asyncio.new_event_loop()
        self.spans: list[tuple[str, int, int]] = []
        """(stage, start, end) of the last request, in nanoseconds of ``time.monotonic_ns``."""

    def answer(self, request: ReplayedRequest, placements: int, products: int, budget_ms: int) -> InProcessAnswer:
        """Answer one request, and return the time of each stage."""
        start = time.perf_counter()
        tensors: Tensors = {
            "PRODUCTS": np.array([products], np.int32),
            "BUDGET_MS": np.array([budget_ms], np.int32),
        }
        if request.history:
            tensors["HISTORY"] = bytes_tensor(request.history)
        if request.kind == "search":
            tensors["QUERY"] = bytes_tensor([request.query])
        else:
            tensors["PLACEMENTS"] = np.array([placements], np.int32)
            if request.session:
                tensors["SESSION"] = bytes_tensor(request.session)
        self._loop.run_until_complete(self._run(request.kind, tensors))
        stage_ms = {stage: (end - begin) / 1e6 for stage, begin, end in self.spans}
        shelves, status = _shelves(tensors, request), json_of(tensors["STATUS"])
        return InProcessAnswer(shelves, status, time.perf_counter() - start, stage_ms)

    def close(self) -> None:
        """Close the event loop."""
        self._loop.close()

    async def _run(self, ensemble: str, tensors: Tensors) -> None:
        """Run every step, adding its outputs to `tensors`."""
        self.spans = []
        for step in self._ensembles[ensemble].ensemble_scheduling.step:
            start_ns = time.monotonic_ns()
            inputs = {own: tensors[name] for own, name in step.input_map.items() if name in tensors}
            outputs = await self._stages[step.model_name].run(inputs)
            tensors |= {name: outputs[own] for own, name in step.output_map.items()}
            self.spans.append((step.model_name, start_ns, time.monotonic_ns()))


def read_config(build: Path, model: str) -> Any:
    """The `ModelConfig` of one model of a build's repository."""
    text = (build / "repository" / model / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def _stage(build: Path, name: str, engines: Engines) -> Stage:
    parameters = {key: value.string_value for key, value in read_config(build, name).parameters.items()}
    parameters.pop("build", None)
    return STAGES[name](build, parameters, engines)


def _shelves(tensors: Tensors, request: ReplayedRequest) -> tuple[InProcessShelf, ...]:
    ids, scores = np.atleast_2d(tensors["PRODUCT_ID"]), np.atleast_2d(tensors["SCORE"])
    if request.kind == "search":
        themes, keywords = [request.query], [()]
    else:
        themes = texts_of(tensors["THEME"])
        keywords = [tuple(filter(None, texts_of(row))) for row in tensors["KEYWORDS"]]  # type: ignore[misc]
    shelves = []
    for theme, chosen, row, values in zip(themes, keywords, ids, scores, strict=True):
        products = tuple(filter(None, texts_of(row)))
        if theme or products:
            shelves.append(InProcessShelf(theme, chosen, products, tuple(values[: len(products)].tolist())))
    return tuple(shelves)
