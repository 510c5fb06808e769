"""Requests that test a generation: smoke requests from the store, recorded ones, and the client that sends them."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from endcap_server.declared.model import DeclaredTensor
from endcap_server.declared.tensors import bytes_tensor
from endcap_server.models import ENSEMBLES
from endcap_server.shop.store import ItemStore
from endcap_server.stages.recorder import read_recorded

Inputs = dict[str, list[Any]]
_TIMEOUT_S = 60.0
_TRIES = 5
_PAUSE_S = 0.3
BEST = 10


@dataclass(frozen=True)
class ReplaySample:
    """One request of an ensemble."""

    ensemble: str
    inputs: Inputs

    def __str__(self) -> str:
        return f"{self.ensemble} {json.dumps(self.inputs, ensure_ascii=False)[:200]}"


@dataclass(frozen=True)
class ReplayAnswer:
    """Result of one request."""

    seconds: float
    error: str = ""
    overloaded: bool = False
    best: frozenset[str] = frozenset()
    """The first ten products of each placement, or of a search."""
    scores: dict[str, float] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)

    @property
    def degraded(self) -> bool:
        """Whether a stage fell back."""
        return bool(self.status.get("degraded"))

    @property
    def generation(self) -> str:
        """The generation that answered."""
        return str(self.status.get("versions", {}).get("generation", ""))


def smoke_samples(build: Path) -> list[ReplaySample]:
    """Requests of every kind with the store's products and keywords; deterministic."""
    store = ItemStore.open(build)
    ids = [store.product_ids[row] for row in np.argsort(-store.popularity, kind="stable")[:8].tolist()]
    words = [store.keywords[row] for row in range(min(4, len(store.keywords)))] or ["gift"]
    rules = json.dumps({"pin": ids[:1], "max_per_brand": 3})
    return [
        ReplaySample("search", {"QUERY": words[:1], "PRODUCTS": [12]}),
        ReplaySample("storefront", {"PLACEMENTS": [2], "PRODUCTS": [6]}),
        ReplaySample("storefront", {"HISTORY": ids[:5], "PLACEMENTS": [2], "PRODUCTS": [6]}),
        ReplaySample("storefront", {"SESSION": words[:2], "RULES": [rules], "PLACEMENTS": [2], "PRODUCTS": [6]}),
        ReplaySample("search", {"QUERY": words[-1:], "HISTORY": ids[:3], "RULES": [rules], "PRODUCTS": [6]}),
    ]


def recorded_samples(run_folder: Path, table: str, count: int) -> list[ReplaySample]:
    """The latest valid requests to the live generation, newest first, without repetitions."""
    recorded = {json.dumps(inputs, sort_keys=True): inputs for inputs in reversed(read_recorded(run_folder, table))}
    return [
        ReplaySample("search" if "QUERY" in each else "storefront", each) for each in islice(recorded.values(), count)
    ]


def made_samples(build: Path) -> Iterator[ReplaySample]:
    """An endless sequence of requests with known keywords and popular products, if too few were recorded."""
    store = ItemStore.open(build)
    words = max(len(store.keywords), 1)
    rows = np.argsort(-store.popularity, kind="stable")[: 64 * 5].tolist()
    ids = [store.product_ids[row] for row in rows]
    number = 0
    while True:
        word = store.keywords[number % words] if len(store.keywords) else "gift"
        if number % 2:
            history = [ids[(number * 5 + each) % len(ids)] for each in range(3)]
            yield ReplaySample("storefront", {"HISTORY": history, "PLACEMENTS": [2], "PRODUCTS": [10]})
        else:
            yield ReplaySample("search", {"QUERY": [word], "PRODUCTS": [10]})
        number += 1


def samples(build: Path, run_folder: Path, table: str, count: int) -> tuple[list[ReplaySample], int]:
    """`count` requests for a comparison, and how many of them were recorded."""
    return choose(recorded_samples(run_folder, table, count), made_samples(build), count)


def choose(
    recorded: Sequence[ReplaySample], made: Iterable[ReplaySample], count: int
) -> tuple[list[ReplaySample], int]:
    """`count` requests, recorded ones first, and the number of recorded ones.

    At most three quarters are recorded requests of one ensemble, because both ensembles go live.
    """
    most = count - count // 4
    kept = [each for name in ENSEMBLES for each in islice((one for one in recorded if one.ensemble == name), most)]
    ample = {name for name, number in Counter(each.ensemble for each in kept).items() if number >= most}
    return [*kept, *islice((each for each in made if each.ensemble not in ample), count - len(kept))], len(kept)


class Asker:
    """Sends requests to an ensemble of any name; a context manager that closes its connection.

    It uses HTTP, which is open on the machine itself even if gRPC requires TLS or a client certificate.

    Args:
        address: HOST:PORT of the HTTP service.
    """

    def __init__(self, address: str) -> None:
        self._client = triton.InferenceServerClient(address, network_timeout=_TIMEOUT_S)

    def __enter__(self) -> "Asker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def ask(self, sample: ReplaySample, model: str, tries: int = _TRIES) -> ReplayAnswer:
        """Send a request; after a refusal because of load, pause and try again."""
        answer = ReplayAnswer(0.0)
        for number in range(tries):
            answer = self._once(sample, model)
            if not answer.overloaded:
                break
            time.sleep(_PAUSE_S * (number + 1))
        return answer

    def _once(self, sample: ReplaySample, model: str) -> ReplayAnswer:
        ensemble = ENSEMBLES[sample.ensemble]
        wanted = [triton.InferRequestedOutput(each.name) for each in ensemble.outputs]
        tensors = [_tensor(each, sample.inputs[each.name]) for each in ensemble.inputs if each.name in sample.inputs]
        started = time.perf_counter()
        try:
            result = self._client.infer(model, tensors, outputs=wanted)
            return _answer(result, time.perf_counter() - started)
        except (InferenceServerException, OSError) as error:  # OSError: no connection, no answer in time
            text = " ".join(str(error).split())
            return ReplayAnswer(time.perf_counter() - started, text, "overloaded:" in text)


def _tensor(declared: DeclaredTensor, values: list[Any]) -> Any:
    is_text = declared.data_type == "STRING"
    array = bytes_tensor(map(str, values)) if is_text else np.array(values, np.int32)
    data_type = "BYTES" if is_text else declared.data_type
    return triton.InferInput(declared.name, [len(values)], data_type).set_data_from_numpy(array)


def _answer(result: Any, seconds: float) -> ReplayAnswer:
    ids, scores = result.as_numpy("PRODUCT_ID"), result.as_numpy("SCORE")
    rows = ids.reshape(-1, ids.shape[-1]) if ids.size else ids.reshape(0, 1)
    best = frozenset(each.decode() for row in rows for each in row[:BEST].tolist() if each)
    by_id: dict[str, float] = {}
    for product, score in zip(ids.reshape(-1).tolist(), scores.reshape(-1).tolist(), strict=True):
        if product:
            by_id[product.decode()] = max(score, by_id.get(product.decode(), -np.inf))
    status = json.loads(result.as_numpy("STATUS").reshape(-1)[0])
    return ReplayAnswer(seconds, best=best, scores=by_id, status=status)
