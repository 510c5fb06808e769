"""Thousands of broken requests: each gets a correct answer or a refusal that names the tensor; the server lives on."""

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from endcap_client.errors import InvalidArgument, from_grpc
from endcap_server.launch import Server
from endcap_server.serving.processes import model_processes
from endcap_server.shop.store import ItemStore
from mutations import mutate, valid
from serving import assert_flat
from tritonclient.grpc import InferResult, service_pb2_grpc
from tritonclient.grpc import service_pb2 as kserve

from benchmarks.apply_bench import memory_mb

CLIENTS = 2
BUDGET_MS = 40


@pytest.fixture(scope="module")
def stub(server: Server) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module")
def shop(store: ItemStore) -> tuple[list[str], list[str]]:
    return [store.product_ids[row] for row in range(0, 200, 7)], [store.keywords[row] for row in range(0, 60, 3)]


def number_of(request: kserve.ModelInferRequest, name: str, default: int) -> int:
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=False):
        if tensor.name == name:
            return int(np.frombuffer(raw, np.int32)[0])
    return default


def faults(request: kserve.ModelInferRequest, answer: kserve.ModelInferResponse) -> list[str]:
    """What breaks the contract in an answer."""
    result, asked = InferResult(answer), {output.name for output in request.outputs}
    is_search = request.model_name == "search"
    placements = 1 if is_search else number_of(request, "PLACEMENTS", 4)
    products = number_of(request, "PRODUCTS", 12)
    page = (products,) if is_search else (placements, products)
    found = []
    if "PRODUCT_ID" in asked and result.as_numpy("PRODUCT_ID").shape != page:
        found.append(f"PRODUCT_ID {result.as_numpy('PRODUCT_ID').shape} instead of {page}")
    if "PRODUCT_ID" in asked and not any(result.as_numpy("PRODUCT_ID").reshape(-1)[:1]):
        found.append("no product")
    if "SCORE" in asked:
        scores = result.as_numpy("SCORE").reshape(-1, products)
        if scores.shape[0] != placements or not np.isfinite(scores).all() or (np.diff(scores) > 0).any():
            found.append(f"scores {scores}")
    if "SIGNALS" in asked and not np.isfinite(result.as_numpy("SIGNALS")).all():
        found.append(f"signals {result.as_numpy('SIGNALS')}")
    if "THEME" in asked:
        themes = [theme.decode() for theme in result.as_numpy("THEME").tolist()]
        if len(themes) != placements or not all(themes) or any("hacked" in theme.lower() for theme in themes):
            found.append(f"themes {themes}")
    if "STATUS" in asked and not {"stages", "signals", "versions"} <= json.loads(result.as_numpy("STATUS")[0]).keys():
        found.append("STATUS without its parts")
    return found


def judge(stub: service_pb2_grpc.GRPCInferenceServiceStub, request: kserve.ModelInferRequest) -> tuple[str, str]:
    """How a request was answered, and what is wrong with that ("" nothing)."""
    try:
        answer = stub.ModelInfer(request, timeout=20)
    except grpc.RpcError as error:
        refusal = from_grpc(error.code().name, error.details(), "server", request.model_name, 20)
        if not isinstance(refusal, InvalidArgument):
            return "error", f"{error.code().name}: {error.details()}"
        names = [f"'{tensor.name}'" for tensor in (*request.inputs, *request.outputs)]
        named = refusal.tensor or any(name in str(refusal) for name in names)
        return "refused", "" if named else f"names no tensor: {refusal}"
    return "answered", "; ".join(faults(request, answer))


@pytest.fixture
def ask(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, shop: tuple[list[str], list[str]]
) -> Callable[[int, int], tuple[Counter[str], list[str]]]:
    def run(seed: int, count: int) -> tuple[Counter[str], list[str]]:
        rng = random.Random(seed)
        works = []
        for _ in range(count):
            request = valid(rng, *shop, BUDGET_MS)
            works.append((request, [mutate(request, rng) for _ in range(rng.choice((1, 1, 2, 3)))]))
        with ThreadPoolExecutor(CLIENTS) as pool:
            judged = list(pool.map(lambda work: judge(stub, work[0]), works))
        wrong = [f"{how} ({works[n][1]}): {fault[:300]}" for n, (how, fault) in enumerate(judged) if fault]
        return Counter(how for how, _ in judged), wrong

    return run


def test_mutated_requests(
    pytestconfig: pytest.Config, server: Server, ask: Callable[[int, int], tuple[Counter[str], list[str]]]
) -> None:
    assert server.process is not None
    mutations = 5000 if pytestconfig.getoption("--long") else 800
    before = set(model_processes(server.process.pid))
    ask(1, mutations // 5)
    filled = memory_mb(server.process.pid)
    counts, wrong = ask(2, mutations)
    assert wrong == []
    assert counts["refused"] > mutations / 4
    assert counts["answered"] > mutations / 20
    assert_flat(filled, memory_mb(server.process.pid))
    assert set(model_processes(server.process.pid)) == before, "no process died"
    os.kill(server.process.pid, 0)
