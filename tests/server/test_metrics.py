import re
import threading
from typing import Any

import numpy as np
import pytest
from endcap_server.declared.errors import EngineTimeout
from endcap_server.declared.reasons import Cause, marked, read_marked
from endcap_server.declared.tensors import Tensors
from endcap_server.ensembles import STAGES
from endcap_server.serving import metrics
from endcap_server.serving.metrics import (
    EngineMetrics,
    MetricSums,
    StageMetrics,
    increments,
    nothing,
)
from endcap_server.shop.text_policy import DEFAULT_WORDS
from endcap_server.stages.admission import Refusal
from endcap_server.stages.answer_cache import AnswerCache, CachedAnswer
from endcap_server.stages.documents import PageRequest, ThemeRequest, Themes
from endcap_server.stages.status import StatusPart
from endcap_server.stages.theme_parameters import ThemeCheck
from tickets import ticket, ticketed


def taken(source: StageMetrics | EngineMetrics) -> dict[tuple[str, ...], list[float]]:
    return {(metric.name, *labels): sums for (metric, labels), sums in source.take().items()}


def part(**more: Any) -> dict[str, Any]:
    return {**StatusPart().document(), **more}


def test_names_and_labels() -> None:
    names = [name for metric in metrics.METRICS for name in metric.series]
    assert len(set(names)) == len(names)
    for metric in metrics.METRICS:
        assert re.fullmatch(r"endcap_[a-z_]+", metric.name)
        assert metric.buckets or metric.is_gauge != metric.name.endswith("_total"), "Prometheus calls counters so"
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert not {"model", "process", "le", "instance", "job"} & set(metric.labels)


@pytest.mark.parametrize("source", [*(StageMetrics(each) for each in STAGES), EngineMetrics("nearest")])
def test_what_is_there_from_the_start(source: StageMetrics | EngineMetrics) -> None:
    known = [(metric.name, *labels) for metric, labels in source.known]
    assert len(set(known)) == len(known)
    assert all(len(labels) == len(metric.labels) for metric, labels in source.known)
    assert len(known) < 60, "series are cheap, not free"


def test_sections_of_the_word_list_are_checks() -> None:
    text = DEFAULT_WORDS.read_text(encoding="utf-8")
    sections = re.findall(r"^\[(\w+)\]$", text, re.MULTILINE)
    assert sections
    for section in sections:
        assert ThemeCheck(f"policy_{section}").value == f"policy_{section}"
    assert ThemeCheck("policy_mine") is ThemeCheck.POLICY_OTHER


@pytest.mark.parametrize("stage", STAGES)
def test_codes_of_a_stage_are_labels(stage: str) -> None:
    found = STAGES[stage]
    for codes in (found.checks, found.causes, found.refusals):
        assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)
    assert not {*found.causes} & {*Cause}, "an engine's cause and the stage's own would be one"


@pytest.mark.parametrize("cause", Cause)
def test_an_engines_cause_travels_in_its_message(cause: Cause) -> None:
    assert read_marked(marked(cause, "ROW: expected [2, M],\ngot [x] 3")) == (cause, "ROW: expected [2, M],\ngot [x] 3")


def test_errors_of_the_server_mean_that_an_engine_is_not_there() -> None:
    for message in ("Stub process 'nearest_0_0' is not healthy.", "Model 'nearest' is not ready.", "[12] refused"):
        assert read_marked(message) == (Cause.UNAVAILABLE, message)


def page(left_ms: float, placements: int = 4) -> Tensors:
    return {"PAGE": PageRequest(ticket=ticket(left_ms), placements=placements, products=12).tensor()}


def test_retrieval() -> None:
    stage = StageMetrics("retrieval")
    document = part(budget_ms=800, candidates=120, in_flight=3, ms=30.0, known_history=5, unknown_ids=2)
    stage.answered({}, document)
    stage.overloaded(Refusal.LATE)
    stage.ended("invalid")
    found = taken(stage)
    assert found["endcap_stage_requests_total", "retrieval", "answered"] == [1]
    assert found["endcap_stage_requests_total", "retrieval", "overloaded"] == [1]
    assert found["endcap_stage_requests_total", "retrieval", "invalid"] == [1]
    assert found["endcap_overload_total", "late"] == [1]
    assert found["endcap_stage_seconds", "retrieval"][-1] == pytest.approx(0.03)
    assert found["endcap_stage_budget_seconds", "retrieval"][-1] == pytest.approx(0.8)
    assert found["endcap_candidates", "retrieval"][-1] == 120
    assert found["endcap_in_flight",][-1] == 3
    assert found["endcap_request_products_total", "yes"] == [5]
    assert found["endcap_request_products_total", "no"] == [2]
    assert not any(name.startswith("endcap_stage_degraded") for name, *_ in found)


def test_theme() -> None:
    stage = StageMetrics("theme")
    status = StatusPart("generated")
    status.count(ThemeCheck.TITLE_WORD, 3)
    status.count(ThemeCheck.POLICY_OTHER, 2, name="policy_mine")
    status.count(ThemeCheck.TITLE_WORD, name="of_tomorrow")
    status.fall_back_on(EngineTimeout("theme_llm"))
    request = ThemeRequest(ticket=ticket(250), shopper="", placements=4)
    stage.answered({"THEME_REQUEST": request.tensor()}, status.document())
    found = taken(stage)
    assert found["endcap_aiqa_total", "theme", "title_word"] == [3]
    assert found["endcap_aiqa_total", "theme", "policy_other"] == [2]
    assert found["endcap_aiqa_total", "theme", "other"] == [1]
    assert found["endcap_stage_degraded_total", "theme", "theme_llm", "late"] == [1]
    assert found["endcap_stage_budget_seconds", "theme"][-1] == pytest.approx(0.25, abs=0.05)


def test_what_a_stage_keeps() -> None:
    kept = AnswerCache(8, 0)
    stage = StageMetrics("keywords", kept)
    kept.put(b"themes", CachedAnswer("{}", {}))
    status = part(source="generated", aiqa={"keyword_fit": 3}, ms=5.0)
    for source in ("generated", "cached", "cached"):
        stage.answered({"THEMES": ticketed(Themes(titles=()))}, status | {"source": source})
    found = taken(stage)
    assert found["endcap_stage_cache_total", "keywords", "hit"] == [2]
    assert found["endcap_stage_cache_total", "keywords", "miss"] == [1]
    assert found["endcap_stage_cache_entries", "keywords"] == [1]
    assert found["endcap_aiqa_total", "keywords", "keyword_fit"] == [3], "counted once, when the answer was made"
    assert found["endcap_stage_requests_total", "keywords", "answered"] == [3]
    kept.put(b"others", CachedAnswer("{}", {}))
    assert taken(stage) == {("endcap_stage_cache_entries", "keywords"): [2]}


def test_rerank_and_its_budget() -> None:
    stage = StageMetrics("rerank")
    stage.answered(page(400), part(pairs=160, ms=100.0))
    stage.answered(page(-900), part(pairs=0, ms=100.0))
    found = taken(stage)
    buckets = dict(
        zip((*metrics.STAGE_BUDGET.buckets, np.inf), found["endcap_stage_budget_seconds", "rerank"], strict=False)
    )
    assert buckets[0.0] == 1, "a deadline that had passed left nothing"
    assert buckets[0.5] == 1, "400 ms are left, and 100 ms had been used"
    assert found["endcap_candidates", "rerank"][-1] == 160


def test_answers_are_counted_when_the_sums_are_taken_and_before_too_many_wait() -> None:
    stage = StageMetrics("rerank")
    stage.answered(page(400), part(pairs=1, ms=1.0))
    assert not stage.counts.take()
    for _ in range(1000):
        stage.answered({**page(400), "MEASURED": np.zeros(1)}, part(pairs=1, ms=1.0))
    assert taken(stage)["endcap_stage_requests_total", "rerank", "answered"] == [1001]


def test_pages() -> None:
    stage = StageMetrics("fusion")
    status = {
        "stages": {
            "retrieval": {"source": "computed", "ms": 3.0, "aiqa": {}},
            "theme": {"source": "cached", "ms": 0.0, "aiqa": {"title_word": 5}},
            "keywords": {"source": "fallback", "ms": 9.0, "aiqa": {}, "reason": "..."},
            "rerank": {"source": "computed", "ms": 30.0, "aiqa": {}},
            "fusion": {"source": "computed", "ms": 2.0, "aiqa": {"product_unfit": 7}},
        },
        "degraded": ["keywords"],
        "ms": 45.0,
    }
    stage.answered(page(100), status)
    search = {
        **status,
        "stages": {name: status["stages"][name] for name in ("retrieval", "rerank", "fusion")},
        "degraded": [],
    }
    stage.answered(page(100, placements=0), search)
    found = taken(stage)
    assert found["endcap_pages_total", "storefront", "yes"] == [1]
    assert found["endcap_pages_total", "search", "no"] == [1]
    assert found["endcap_page_source_total", "storefront", "theme", "cached"] == [1]
    assert found["endcap_page_source_total", "storefront", "keywords", "fallback"] == [1]
    assert found["endcap_page_source_total", "search", "rerank", "computed"] == [1]
    assert found["endcap_page_seconds", "storefront"][-1] == pytest.approx(0.045)
    assert found["endcap_aiqa_total", "fusion", "product_unfit"] == [14]
    assert ("endcap_aiqa_total", "theme", "title_word") not in found, "a cached page is not checked again"
    assert ("endcap_stage_degraded_total", "fusion", "none", "other") not in found


def test_engine() -> None:
    engine = EngineMetrics("cross_encoder")
    engine.arrived()
    engine.arrived()
    assert engine.in_flight == 2
    engine.batch(2, [0.004, 0.002])
    engine.cache(30, 10)
    engine.ended("answered", 0.02)
    engine.ended("abandoned", 0.5)
    assert engine.in_flight == 0
    found = taken(engine)
    assert found["endcap_engine_requests_total", "cross_encoder", "answered"] == [1]
    assert found["endcap_engine_requests_total", "cross_encoder", "abandoned"] == [1]
    assert found["endcap_engine_queue_seconds", "cross_encoder"][-1] == pytest.approx(0.006)
    assert found["endcap_engine_batch_requests", "cross_encoder"][-1] == 2
    assert found["endcap_engine_cache_total", "cross_encoder", "hit"] == [30]
    assert found["endcap_engine_cache_total", "cross_encoder", "miss"] == [10]


def test_the_age_of_facts() -> None:
    ages = iter([None, 2.5])
    stage = StageMetrics("fusion", facts_age_s=lambda: next(ages))
    assert taken(stage) == {}
    assert taken(stage) == {("endcap_facts_age_seconds",): [2.5]}


def test_histograms_are_counted_up_by_bucket() -> None:
    counts, metric = MetricSums(), metrics.IN_FLIGHT
    for value in (1, 2, 2, 3, 64, 65):
        counts.observe(metric, (), value)
    [((same, labels), sums)] = counts.take().items()
    assert (same, labels) == (metric, ())
    found = {(name, bucket.get("le")): amount for name, bucket, amount in increments(metric, sums)}
    by_bound = {bound: found["endcap_in_flight_bucket", bound] for bound in ("1", "2", "4", "32", "64", "+Inf")}
    assert by_bound == {"1": 1, "2": 3, "4": 4, "32": 4, "64": 5, "+Inf": 6}
    assert found["endcap_in_flight_sum", None] == 137
    assert found["endcap_in_flight_count", None] == 6
    assert counts.take() == {}
    for each in metrics.METRICS:
        assert {amount for _, _, amount in increments(each, nothing(each))} == {0}
        assert {name for name, _, _ in increments(each, nothing(each))} == set(each.series)


def test_nothing_is_lost_between_threads() -> None:
    counts, total, stopped = MetricSums(), 0.0, threading.Event()

    def add() -> None:
        for _ in range(5000):
            counts.add(metrics.OVERLOAD, ("late",))
            counts.observe(metrics.IN_FLIGHT, (), 1)

    def take() -> float:
        return sum(sums[0] for sums in counts.take().values())

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    while not stopped.is_set():
        total += take()
        if not any(thread.is_alive() for thread in threads):
            stopped.set()
    assert total + take() == 40_000
