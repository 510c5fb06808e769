"""The metrics of a running server: they count what happens, and the dashboard and the alerts find what they ask for."""

import os
import re
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest
from endcap_builders.outcomes.metrics import GAUGES
from endcap_client import Client, DeadlineExceeded, InvalidArgument
from endcap_server.launch import Server
from endcap_server.serving.metrics import FACTS_AGE
from endcap_server.serving.processes import model_processes
from queries import SCRAPED, queries, selectors
from serving import Traffic
from waiting import wait_for

_LINE = re.compile(r"^(\w+)(?:{(.*)})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
Sample = tuple[str, dict[str, str], float]


def scrape(server: Server) -> list[Sample]:
    """Everything on the metrics port: (name, labels, value)."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    matches = [_LINE.match(line) for line in lines if line and not line.startswith("#")]
    assert all(matches)
    return [(match[1], dict(_LABEL.findall(match[2] or "")), float(match[3])) for match in matches if match]


def total(samples: list[Sample], name: str, **labels: str) -> float:
    return sum(value for each, has, value in samples if each == name and labels.items() <= has.items())


def settle(server: Server) -> None:
    """Wait until every process has reported: each does so once a second, when its turn comes."""

    def counts() -> list[Sample]:
        return [each for each in scrape(server) if each[0].startswith("endcap_")]

    def still() -> bool:
        before = counts()
        time.sleep(2.2)
        return counts() == before

    wait_for(still, "no more reports")


@pytest.fixture
def rise(server: Server) -> Callable[..., float]:
    """By how much a metric rose since the test began."""
    settle(server)  # what earlier tests did is reported
    before = scrape(server)

    def risen(name: str, **labels: str) -> float:
        return total(scrape(server), name, **labels) - total(before, name, **labels)

    return risen


def test_answers_are_counted(server: Server, rise: Callable[..., float], new_history: Callable[[], list[str]]) -> None:
    with Client(server.grpc_address, timeout_s=60) as client:
        shoppers = [new_history(), new_history()]
        pages = [client.storefront(each, budget_ms=30_000) for each in (*shoppers, shoppers[1])]
        client.search("lamp for the metrics", products=5, budget_ms=30_000)
        with pytest.raises(InvalidArgument):
            client.storefront(shoppers[0], rules={"max_per_brand": -1})
    wait_for(lambda: rise("endcap_pages_total") == 4, "four answers")
    wait_for(lambda: rise("endcap_stage_requests_total", outcome="invalid") == 1, "one wrong request")
    settle(server)
    degraded = sum(bool(page.status.degraded) for page in pages)
    assert rise("endcap_pages_total", ensemble="storefront", degraded="yes") == degraded
    assert rise("endcap_pages_total", ensemble="storefront", degraded="no") == 3 - degraded
    assert rise("endcap_page_seconds_count", ensemble="search") == 1
    runs = {}
    for stage in ("theme", "keywords"):
        sources = Counter(page.status.stages[stage].source for page in pages)
        for source in ("generated", "cached", "fallback"):
            assert rise("endcap_page_source_total", stage=stage, source=source) == sources[source]
        runs[stage] = 3 - sources["cached"]
        assert rise("endcap_stage_cache_total", stage=stage, result="hit") == sources["cached"]
        assert rise("endcap_stage_cache_total", stage=stage, result="miss") == runs[stage]
    for stage, asked in {"retrieval": 4, "theme": 3, "keywords": 3, "rerank": 4, "fusion": 4}.items():
        assert rise("endcap_stage_requests_total", stage=stage, outcome="answered") == asked
        assert rise("endcap_stage_seconds_bucket", stage=stage, le="+Inf") == asked
        assert rise("endcap_stage_budget_seconds_count", stage=stage) == asked
    assert rise("endcap_candidates_sum", stage="retrieval") > 0
    assert rise("endcap_candidates_sum", stage="rerank") > 0
    assert rise("endcap_engine_requests_total", engine="theme_llm", outcome="answered") == runs["theme"]
    assert rise("endcap_engine_queue_seconds_count", engine="cross_encoder") == 4
    # A product whose kind several placements name is one pair to the engine.
    pairs = rise("endcap_candidates_sum", stage="rerank")
    assert 0 < rise("endcap_engine_cache_total", engine="cross_encoder") <= pairs
    assert rise("endcap_engine_cache_total", engine="cross_encoder", result="hit") > 0, "one page was asked for twice"


def test_a_missing_engine_is_named(
    server: Server, rise: Callable[..., float], new_history: Callable[[], list[str]]
) -> None:
    # Series of a process that was killed stay: it could not take them away.
    shown = len(processes(server, "theme_llm"))
    with server.control() as control, Client(server.grpc_address, timeout_s=20) as client:
        control.unload_model("theme_llm")
        try:
            client.storefront(new_history())
            wait_for(
                lambda: (
                    rise("endcap_stage_degraded_total", stage="theme", engine="theme_llm", reason="unavailable") == 1
                ),
                "the missing engine",
            )
            # Its process takes the series away when it ends, which the unloading does not wait for.
            wait_for(lambda: len(processes(server, "theme_llm")) < shown, "what is unloaded reports nothing")
        finally:
            control.load_model("theme_llm")
    assert rise("endcap_pages_total", ensemble="storefront", degraded="yes") == 1
    assert rise("endcap_page_source_total", stage="theme", source="fallback") == 1
    assert len(processes(server, "theme_llm")) == shown, "it is back"


def test_refusals_are_counted(server: Server, rise: Callable[..., float], new_history: Callable[[], list[str]]) -> None:
    def ask(client: Client, number: int) -> object:
        return client.storefront(new_history(), placements=2, budget_ms=1000)

    with Traffic(server.grpc_address, 24, ask) as traffic:
        time.sleep(2)
    refused = len(traffic.refused)
    assert refused
    wait_for(
        lambda: rise("endcap_stage_requests_total", stage="retrieval", outcome="overloaded") == refused,
        f"{refused} refusals",
    )
    assert rise("endcap_overload_total", reason="late") + rise("endcap_overload_total", reason="full") == refused
    assert rise("nv_inference_request_failure", model="storefront") >= refused, "to Triton, refusals are failures"


def test_models_that_are_loaded_again_under_traffic(
    server: Server, rise: Callable[..., float], new_history: Callable[[], list[str]]
) -> None:
    """Old and new processes of a model report side by side for a moment, which must not harm the server."""
    assert server.process is not None
    process, rounds, models = server.process.pid, 2, ("fusion", "nearest")
    running, shown = len(model_processes(process)), len(processes(server, "fusion"))
    seen: dict[str, set[str]] = defaultdict(set)
    with (
        server.control() as control,
        Traffic(server.grpc_address, 2, lambda client, number: client.search(f"lamp {number}", products=5)) as traffic,
    ):
        for _ in range(rounds):
            for model in models:
                # The server loads again only what has changed.
                os.utime(server.state.models / model / "1" / "model.py")
                control.load_model(model)
                time.sleep(0.3)
                for _, labels, _ in scrape(server):
                    if labels.get("model") in models and "process" in labels:
                        seen[labels["model"]].add(labels["process"])
    assert all(isinstance(error, DeadlineExceeded) for error in traffic.errors), "a busy machine is late, and no more"
    assert traffic.answers
    assert server.process.poll() is None
    assert server.process.pid == process
    for model in models:
        assert len(seen[model]) > rounds, "each process had series of its own"
    wait_for(lambda: len(processes(server, "fusion")) == shown, "nothing left of earlier processes")
    wait_for(lambda: len(model_processes(process)) == running, "earlier processes have ended")
    for _ in range(3):
        with Client(server.grpc_address, timeout_s=20) as client:
            client.storefront(new_history())
    wait_for(lambda: total(scrape(server), "endcap_pages_total", ensemble="storefront") >= 3, "new counts")


def processes(server: Server, model: str) -> set[str]:
    return {
        labels["process"] for _, labels, _ in scrape(server) if labels.get("model") == model and "process" in labels
    }


def test_the_dashboard_and_the_alerts_find_what_they_ask_for(
    server: Server, new_history: Callable[[], list[str]]
) -> None:
    with Client(server.grpc_address, timeout_s=20) as client:
        client.storefront(new_history())
        client.search("lamp")
    asked = [
        (where, selector)
        for where, query, _ in queries()
        for selector in selectors(query)
        # The first is Prometheus' own, the second exists while a server has facts (`test_facts_real`), and `endcap
        # outcomes` writes the others.
        if selector.name not in ("up", FACTS_AGE.name, *(gauge.name for gauge in GAUGES.values()))
    ]
    assert len(asked) > 40
    names = {selector.name for _, selector in asked}
    # Processes report once a second.
    wait_for(lambda: names <= {name for name, _, _ in scrape(server)}, f"series of {sorted(names)}")
    labels_of: dict[str, set[str]] = defaultdict(set)
    values_of: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name, labels, _ in scrape(server):
        labels_of[name] |= set(labels)
        for label, value in labels.items():
            values_of[name, label].add(value)
    for where, selector in asked:
        assert selector.labels <= labels_of[selector.name] | SCRAPED, f"{where}: {selector.name}"
        for label, operator, value in selector.matchers:
            if label not in SCRAPED and operator == "MatchOp.Equal":
                assert value in values_of[selector.name, label], f"{where}: {selector.name}"
