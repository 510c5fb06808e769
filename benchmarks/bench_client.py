"""What the client costs over raw ``tritonclient``: the same requests, in alternation, in one run.

By default against a mock server that answers immediately with a fixed, full page. This has the least noise and needs
no build:

    python -m benchmarks.bench_client

With an address also against a running endcap server, with the cheapest possible search:

    python -m benchmarks.bench_client --address 127.0.0.1:8001

There are two baselines:

- "raw" is what a careful caller of ``tritonclient.grpc`` would write. It packs the same tensors with a deadline,
  requests the same outputs, reads each with ``as_numpy``, and parses STATUS. It neither decodes the byte strings to
  texts nor removes the padding.
- "bare" sends tensors that were packed beforehand and ignores the answer. The difference to it is the whole cost of our
  client.

A round calls each once, in random order. The figure is the median of the rounds' differences (ours minus the
baseline's) with a 95 % bootstrap interval. On an endcap server, a request takes many times the difference, so these
intervals are wide. The last line of the output is one JSON document.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from endcap_client import AsyncClient, Client, Hedge, Options, numbers
from rich.console import Console
from rich.table import Table
from tritonclient import grpc as triton
from tritonclient.grpc import aio as triton_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from benchmarks.measures import median_of

PLACEMENTS, PRODUCTS, KEYWORDS, SIGNALS = 4, 12, 5, 9
TIMEOUT_S = 5.0
BUDGET_MS = 4985
_DATATYPES = {np.dtype(np.float32): "FP32", np.dtype(np.object_): "BYTES"}


@dataclass(frozen=True)
class ClientCase:
    """One request, in the form that each side sends."""

    name: str
    model: str
    texts: dict[str, list[str]]
    numbers: dict[str, int]
    explain: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    """For our client."""

    @property
    def outputs(self) -> list[str]:
        page = ["THEME", "KEYWORDS"] if self.model == "storefront" else []
        return [*page, "PRODUCT_ID", "SCORE", "STATUS", *(["SIGNALS"] if self.explain else [])]


def canned_cases() -> list[ClientCase]:
    history = [f"GRO-{number:05d}" for number in range(20)]
    page = {"history": history, "session": ["oat milk"], "placements": PLACEMENTS, "products": PRODUCTS}
    texts = {"HISTORY": history, "SESSION": ["oat milk"]}
    numbers = {"PLACEMENTS": PLACEMENTS, "PRODUCTS": PRODUCTS}
    return [
        ClientCase("storefront 4x12", "storefront", texts, numbers, arguments=page),
        ClientCase("storefront 4x12, explained", "storefront", texts, numbers, True, page | {"explain": True}),
    ]


def served_cases() -> list[ClientCase]:
    # With a budget of 1 ms the stages fall back, so that the server takes the least time.
    texts, numbers = {"QUERY": ["milk"]}, {"PRODUCTS": 1, "BUDGET_MS": 1}
    search = {"query": "milk", "products": 1, "budget_ms": 1}
    return [ClientCase("search of one product, served", "search", texts, numbers, arguments=search)]


class CannedServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers every request with the same full page, of the outputs that it asks for."""

    def __init__(self) -> None:
        shape = (PLACEMENTS, PRODUCTS)
        rng = np.random.default_rng(0)
        status = {
            "stages": {
                stage: {"source": "computed", "ms": 1.5, "aiqa": {"near_duplicate": 1}}
                for stage in ("retrieval", "theme", "keywords", "rerank", "fusion")
            },
            "signals": [f"signal_{number}" for number in range(SIGNALS)],
            "versions": {f"model_{number}": "0123456789abcdef" for number in range(8)},
            "unknown_ids": 0,
            "degraded": [],
            "ms": 183.2,
        }
        self._tensors: dict[str, tuple[np.ndarray, bytes]] = {}
        for name, value in {
            "THEME": _bytes([f"Theme of placement {row}" for row in range(PLACEMENTS)]),
            "KEYWORDS": _bytes([[f"keyword {row} {n}" for n in range(KEYWORDS)] for row in range(PLACEMENTS)]),
            "PRODUCT_ID": _bytes([[f"GRO-{row:02d}{n:03d}" for n in range(PRODUCTS)] for row in range(PLACEMENTS)]),
            "SCORE": rng.random(shape, np.float32),
            "SIGNALS": rng.random((*shape, SIGNALS), np.float32),
            "STATUS": _bytes([json.dumps(status)]),
        }.items():
            raw = serialize_byte_tensor(value).item() if value.dtype == np.object_ else value.tobytes()
            self._tensors[name] = value, raw
        self._answers: dict[tuple[str, ...], Any] = {}

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        asked = tuple(output.name for output in request.outputs)
        if asked not in self._answers:
            answer = service_pb2.ModelInferResponse(model_name=request.model_name)
            for name in asked:
                value, raw = self._tensors[name]
                answer.outputs.add(name=name, datatype=_DATATYPES[value.dtype], shape=value.shape)
                answer.raw_output_contents.append(raw)
            self._answers[asked] = answer
        return self._answers[asked]


def _bytes(values: list[Any]) -> np.ndarray:
    array = np.array(values, dtype=np.object_)
    return np.vectorize(lambda text: text.encode(), otypes=[np.object_])(array)


def _serve(port: Any) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(CannedServer(), server)
    port.put(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()


@contextmanager
def canned_server() -> Iterator[str]:
    """Serve from another process, so that the server does not share our interpreter; yields the address."""
    context = multiprocessing.get_context("spawn")
    port = context.SimpleQueue()
    process = context.Process(target=_serve, args=(port,), daemon=True)
    process.start()
    try:
        yield f"127.0.0.1:{port.get()}"
    finally:
        process.terminate()
        process.join()


def raw_arguments(case: ClientCase, module: Any) -> dict[str, Any]:
    """Pack a request as the documentation of tritonclient does."""
    inputs = []
    for name, texts in case.texts.items():
        tensor = module.InferInput(name, [len(texts)], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_))
        inputs.append(tensor)
    for name, value in {"BUDGET_MS": BUDGET_MS, **case.numbers}.items():
        tensor = module.InferInput(name, [1], "INT32")
        tensor.set_data_from_numpy(np.array([value], dtype=np.int32))
        inputs.append(tensor)
    outputs = [module.InferRequestedOutput(name) for name in case.outputs]
    return {"model_name": case.model, "inputs": inputs, "outputs": outputs, "client_timeout": TIMEOUT_S}


def raw_read(case: ClientCase, result: Any) -> None:
    """Read the requested outputs."""
    arrays = {name: result.as_numpy(name) for name in case.outputs}
    json.loads(arrays["STATUS"][0])


def rounds(calls: list[Callable[[], Any]], count: int) -> np.ndarray:
    """Milliseconds of each call, float64 [calls, count], in random order within a round."""
    taken = np.empty((len(calls), count))
    for call in calls * _warm_up(count):
        call()
    for number in range(count):
        for which in random.sample(range(len(calls)), len(calls)):
            start = time.perf_counter()
            calls[which]()
            taken[which, number] = 1000 * (time.perf_counter() - start)
    return taken


def sync_rounds(address: str, case: ClientCase, count: int, hedged: bool = False) -> np.ndarray:
    """Times of ours, raw, bare; float64 [3, count]."""
    # Two names of one server: hedging needs two addresses. With quantile 1 it hardly ever sends a second request.
    addresses = [address, address.replace("127.0.0.1", "localhost")] if hedged else address
    options = Options(timeout_s=TIMEOUT_S, hedge=Hedge(quantile=1.0) if hedged else None)
    with Client(addresses, options=options) as client, triton.InferenceServerClient(address) as raw:
        call = getattr(client, case.model)
        packed = raw_arguments(case, triton)
        calls = [
            lambda: call(**case.arguments),
            lambda: raw_read(case, raw.infer(**raw_arguments(case, triton))),
            lambda: raw.infer(**packed),
        ]
        return rounds(calls, count)


async def async_rounds(address: str, case: ClientCase, count: int) -> np.ndarray:
    """As `sync_rounds`, for the asyncio clients."""
    async with AsyncClient(address, timeout_s=TIMEOUT_S) as client, triton_aio.InferenceServerClient(address) as raw:
        call = getattr(client, case.model)
        packed = raw_arguments(case, triton_aio)

        async def read() -> None:
            raw_read(case, await raw.infer(**raw_arguments(case, triton_aio)))

        calls: list[Callable[[], Awaitable[Any]]] = [lambda: call(**case.arguments), read, lambda: raw.infer(**packed)]
        taken = np.empty((len(calls), count))
        for each in calls * _warm_up(count):
            await each()
        for number in range(count):
            for which in random.sample(range(len(calls)), len(calls)):
                start = time.perf_counter()
                await calls[which]()
                taken[which, number] = 1000 * (time.perf_counter() - start)
    return taken


def _warm_up(count: int) -> int:
    return max(1, min(50, count // 10))


def figures(case: str, kind: str, taken: np.ndarray) -> dict[str, Any]:
    """Medians, and those of the differences with their bootstrap intervals over rounds; `taken` float64 [3, rounds]."""
    ours, raw, bare = taken
    found: dict[str, Any] = {"request": case, "client": kind, "rounds": len(ours)}
    for name, times in (("ours", ours), ("raw", raw), ("bare", bare)):
        found[f"{name}_p50_ms"] = round(float(np.median(times)), 4)
    for name, times in (("raw", raw), ("bare", bare)):
        difference = median_of(ours - times)
        found[f"less_{name}_p50_ms"] = round(difference.value, 4)
        found[f"less_{name}_interval_ms"] = [round(difference.low, 4), round(difference.high, 4)]
    return found


def measure(address: str, cases: list[ClientCase], count: int) -> Iterator[dict[str, Any]]:
    """Figures of each request and client."""
    for case in cases:
        yield figures(case.name, "Client", sync_rounds(address, case, count))
        yield figures(case.name, "AsyncClient", asyncio.run(async_rounds(address, case, count)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Overhead of the client over raw tritonclient, in turns in one run.")
    parser.add_argument("--address", help="HOST:PORT of a running server to measure against as well")
    parser.add_argument("--build", help="taken and not needed, for `make bench`")
    parser.add_argument("--rounds", type=numbers.count, default=2000, help="calls of each (default: %(default)s)")
    parser.add_argument(
        "--served-rounds", type=numbers.count, default=100, help="the same with --address (default: %(default)s)"
    )
    parser.add_argument("--seed", type=numbers.seed, default=7)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    with canned_server() as address:
        cases = canned_cases()
        results = list(measure(address, cases, arguments.rounds))
        hedged = sync_rounds(address, cases[0], arguments.rounds, hedged=True)
        results.append(figures(cases[0].name, "Client, hedging", hedged))
    if arguments.address:
        results += measure(arguments.address, served_cases(), arguments.served_rounds)

    table = Table(title="p50 in ms; differences with 95 % intervals")
    for column in ("request", "client", "ours", "raw", "bare", "ours less raw", "ours less bare"):
        table.add_column(column)
    for each in results:
        times = [f"{each[f'{name}_p50_ms']:.3f}" for name in ("ours", "raw", "bare")]
        differences = [
            "{:+.3f} ({:+.3f}, {:+.3f})".format(each[f"less_{name}_p50_ms"], *each[f"less_{name}_interval_ms"])
            for name in ("raw", "bare")
        ]
        table.add_row(each["request"], each["client"], *times, *differences)
    Console(width=150).print(table)
    print(json.dumps({"benchmark": "bench_client", "results": results}))


if __name__ == "__main__":
    main()
