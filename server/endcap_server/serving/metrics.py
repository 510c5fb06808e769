"""The metrics of stages and engines: their declarations, how they are counted, and the values of their labels.

This module does not depend on Triton. Metrics are counted in memory, outside the request path, and `triton/metrics.py`
reports the sums to the server. Every label has a fixed set of values; other texts are mapped to one of them.
"""

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np

from endcap_server.declared.deadline import now_ns
from endcap_server.declared.reasons import NO_ENGINE, Source
from endcap_server.declared.tensors import Tensors
from endcap_server.ensembles import ENSEMBLES, STAGES
from endcap_server.exposures import sink as exposures
from endcap_server.stages.documents import TICKETED, ticket_of
from endcap_server.stages.prepared_themes import PreparedResult

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_IN_FLIGHT = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
OTHER = "other"


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric: its name without the suffixes of Prometheus, its labels, and the upper bounds of a histogram's buckets.

    The kind of a name must never change: Triton ends if two models use different kinds for one name, and models of
    several generations run at the same time. For Triton, counters and buckets are all counters.
    """

    name: str
    meaning: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()
    is_gauge: bool = False
    """It has a current value instead of a count."""

    @property
    def series(self) -> tuple[str, ...]:
        """Names of its series in Prometheus."""
        return tuple(f"{self.name}_{suffix}" for suffix in ("bucket", "sum", "count")) if self.buckets else (self.name,)


STAGE_REQUESTS = Metric(
    "endcap_stage_requests_total", "requests of a stage by what became of them", ("stage", "outcome")
)
STAGE_SECONDS = Metric(
    "endcap_stage_seconds", "time from a stage's begin to its answer, kept answers included", ("stage",), _SECONDS
)
STAGE_BUDGET = Metric(
    "endcap_stage_budget_seconds",
    "budget when a stage begins: the request's in retrieval, their own share in theme and keywords, what is left in "
    "rerank and fusion",
    ("stage",),
    (0.0, *_SECONDS),
)
DEGRADED = Metric(
    "endcap_stage_degraded_total",
    "answers of a stage that are not what it normally gives, by the engine that was missed and why",
    ("stage", "engine", "reason"),
)
AIQA = Metric(
    "endcap_aiqa_total", "what the quality checks removed or repaired, by stage and reason", ("stage", "reason")
)
CANDIDATES = Metric(
    "endcap_candidates",
    "candidate products of a request in retrieval, scored pairs in rerank",
    ("stage",),
    (0.0, 25.0, 50.0, 100.0, 150.0, 200.0, 400.0, 1000.0),
)
STAGE_CACHE = Metric("endcap_stage_cache_total", "requests whose answer a stage had kept, or not", ("stage", "result"))
STAGE_CACHE_ENTRIES = Metric("endcap_stage_cache_entries", "answers that a stage keeps", ("stage",), is_gauge=True)
PREPARED = Metric(
    "endcap_prepared_total", "requests of shoppers that may have a prepared page, by what came of it", ("result",)
)
REQUEST_PRODUCTS = Metric(
    "endcap_request_products_total",
    "products of requests: those of histories that the catalogue has, and those of histories and rules that it has not",
    ("known",),
)
OVERLOAD = Metric("endcap_overload_total", "requests that admission refused, by reason", ("reason",))
IN_FLIGHT = Metric("endcap_in_flight", "requests in flight when one was let in, itself included", (), _IN_FLIGHT)
PAGES = Metric("endcap_pages_total", "answers of an ensemble, degraded or not", ("ensemble", "degraded"))
PAGE_SECONDS = Metric("endcap_page_seconds", "time from retrieval's begin to fusion's answer", ("ensemble",), _SECONDS)
PAGE_SOURCE = Metric(
    "endcap_page_source_total", "where the parts of the answers came from", ("ensemble", "stage", "source")
)
ENGINE_REQUESTS = Metric(
    "endcap_engine_requests_total", "requests of an engine by what became of them", ("engine", "outcome")
)
ENGINE_SECONDS = Metric(
    "endcap_engine_seconds", "time from a request's arrival at an engine to its answer", ("engine",), _SECONDS
)
ENGINE_QUEUE = Metric(
    "endcap_engine_queue_seconds",
    "time that a request waits for its batch to begin (all engines but theme_llm)",
    ("engine",),
    _SECONDS,
)
ENGINE_BATCH = Metric(
    "endcap_engine_batch_requests",
    "requests of a batch, or in flight with one that arrives (theme_llm), itself included",
    ("engine",),
    _IN_FLIGHT,
)
ENGINE_CACHE = Metric(
    "endcap_engine_cache_total",
    "texts (nearest) or pairs (cross_encoder) that an engine knew already, or not",
    ("engine", "result"),
)

STAGE_METRICS = (
    *(STAGE_REQUESTS, STAGE_SECONDS, STAGE_BUDGET, DEGRADED, AIQA, CANDIDATES),
    *(STAGE_CACHE, STAGE_CACHE_ENTRIES, PREPARED),
)
FACTS_AGE = Metric(
    "endcap_facts_age_seconds", "age of the stock and prices that pages show; none without facts", (), is_gauge=True
)
EXPOSURES = Metric(
    "endcap_exposures_total",
    "pages and searches recorded: written, dropped because the sink was slow, failed because of an error, lost with a "
    "process that was killed",
    ("outcome",),
)
PAGE_METRICS = (PAGES, PAGE_SECONDS, PAGE_SOURCE, FACTS_AGE, EXPOSURES)
ADMISSION_METRICS = (OVERLOAD, IN_FLIGHT, REQUEST_PRODUCTS)
ENGINE_METRICS = (ENGINE_REQUESTS, ENGINE_SECONDS, ENGINE_QUEUE, ENGINE_BATCH, ENGINE_CACHE)
METRICS = (*STAGE_METRICS, *PAGE_METRICS, *ADMISSION_METRICS, *ENGINE_METRICS)

OUTCOMES = ("answered", "invalid", "overloaded", "abandoned", "failed")
ENGINE_OUTCOMES = ("answered", "invalid", "abandoned", "failed")
Sums = dict[tuple[Metric, tuple[str, ...]], list[float]]
_DEADLINES = {"theme": "theme_ns", "keywords": "keywords_ns"}
"""Stages with their own deadline on the ticket, instead of the page's."""
_MOST_NOTED = 256
"""Most answers that wait to be counted."""


class MetricSums:
    """Sums since the last `take`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[tuple[Metric, tuple[str, ...]], list[float]] = {}

    def add(self, metric: Metric, labels: tuple[str, ...], amount: float = 1.0) -> None:
        """Add to a counter; ``labels`` are values of the metric's labels, in order."""
        with self._lock:
            self._sums.setdefault((metric, labels), [0.0])[0] += amount

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Add a value to a histogram."""
        with self._lock:
            sums = self._sums.get((metric, labels))
            if sums is None:
                sums = self._sums[metric, labels] = [0.0] * (len(metric.buckets) + 2)
            sums[bisect_left(metric.buckets, value)] += 1
            sums[-1] += value

    def set(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Set a gauge."""
        with self._lock:
            self._sums[metric, labels] = [value]

    def take(self) -> Sums:
        """Return and reset the sums by metric and labels: [count], or a histogram's counts by bucket, +Inf, and sum."""
        with self._lock:
            sums, self._sums = self._sums, {}
        return sums


def increments(metric: Metric, sums: list[float]) -> Iterator[tuple[str, dict[str, str], float]]:
    """Convert sums of :meth:`MetricSums.take` to (series, its `le` label if any, increment), also increments of 0."""
    if not metric.buckets:
        yield metric.name, {}, sums[0]
        return
    below = 0.0
    for bound, count in zip((*(f"{bound:g}" for bound in metric.buckets), "+Inf"), sums, strict=False):
        below += count
        yield f"{metric.name}_bucket", {"le": bound}, below
    yield f"{metric.name}_sum", {}, sums[-1]
    yield f"{metric.name}_count", {}, below


def nothing(metric: Metric) -> list[float]:
    """The sums of a metric without any count."""
    return [0.0] * (len(metric.buckets) + 2 if metric.buckets else 1)


class StageMetrics:
    """Counts the requests of one stage, from its status documents and errors.

    Answers are queued, and counted when the sums are taken: counting takes longer than queueing, and the next stage's
    process needs the core.
    """

    def __init__(
        self,
        stage: str,
        cache: Sized | None = None,
        facts_age_s: Callable[[], float | None] = lambda: None,
        exposure_counts: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """Count for the stage of this name.

        Args:
            stage: Its name.
            cache: Its cache of answers, if it has one.
            facts_age_s: Age of its facts in seconds; None: it has none.
            exposure_counts: Pages that it recorded so far, by outcome.
        """
        self.stage, self.counts = stage, MetricSums()
        self._cache, self._facts_age_s, self._exposure_counts = cache, facts_age_s, exposure_counts
        self._exposures_taken: dict[str, int] = {}
        self._noted: deque[tuple[Mapping[str, Any], np.ndarray | None, int]] = deque()

    @property
    def known(self) -> Iterator[tuple[Metric, tuple[str, ...]]]:
        """Metrics and labels that are there from the start, so that the first event counts as an increase."""
        stage = self.stage
        yield from ((STAGE_REQUESTS, (stage, outcome)) for outcome in OUTCOMES)
        yield from ((metric, (stage,)) for metric in (STAGE_SECONDS, STAGE_BUDGET))
        yield from ((AIQA, (stage, check)) for check in (*STAGES[stage].checks, OTHER))
        yield from ((DEGRADED, (stage, NO_ENGINE, cause)) for cause in (*STAGES[stage].causes, OTHER))
        if self._cache is not None:
            yield from ((STAGE_CACHE, (stage, result)) for result in ("hit", "miss"))
            yield STAGE_CACHE_ENTRIES, (stage,)
        if stage == "theme":
            yield from ((PREPARED, (result,)) for result in PreparedResult)
        if stage in ("retrieval", "rerank"):
            yield CANDIDATES, (stage,)
        if stage == "retrieval":
            yield from ((OVERLOAD, (code,)) for code in STAGES[stage].refusals)
            yield IN_FLIGHT, ()
            yield from ((REQUEST_PRODUCTS, (known,)) for known in ("no", "yes"))
        if stage == "fusion":
            yield from ((EXPOSURES, (outcome,)) for outcome in exposures.OUTCOMES)
            for ensemble in ENSEMBLES.values():
                yield from ((PAGES, (ensemble.name, degraded)) for degraded in ("no", "yes"))
                yield PAGE_SECONDS, (ensemble.name,)
                for step in ensemble.steps:
                    part, sources = step.stage.name, step.stage.sources
                    yield from ((PAGE_SOURCE, (ensemble.name, part, source)) for source in sources)

    def ended(self, outcome: str) -> None:
        """A request was not answered."""
        self.counts.add(STAGE_REQUESTS, (self.stage, outcome))

    def overloaded(self, code: str) -> None:
        """A valid request was refused, for one of the reasons that the stage declares."""
        self.ended("overloaded")
        self.counts.add(OVERLOAD, (code,))

    def answered(self, inputs: Tensors, status: Mapping[str, Any]) -> None:
        """A request was answered, with this STATUS or part of it."""
        ticket = next((inputs[name] for name in TICKETED if name in inputs), None)
        self._noted.append((status, ticket, now_ns()))
        if len(self._noted) >= _MOST_NOTED:
            self._count_noted()

    def take(self) -> Sums:
        """See :meth:`Counts.take`."""
        self._count_noted()
        if self._cache is not None:
            self.counts.set(STAGE_CACHE_ENTRIES, (self.stage,), len(self._cache))
        if (age := self._facts_age_s()) is not None:
            self.counts.set(FACTS_AGE, (), age)
        for outcome, count in self._exposure_counts().items():
            if new := count - self._exposures_taken.get(outcome, 0):
                self.counts.add(EXPOSURES, (outcome,), new)
                self._exposures_taken[outcome] = count
        return self.counts.take()

    def _count_noted(self) -> None:
        while True:
            try:
                noted = self._noted.popleft()
            except IndexError:
                return
            self._count(*noted)

    def _count(self, status: Mapping[str, Any], ticket: np.ndarray | None, answered_ns: int) -> None:
        self.counts.add(STAGE_REQUESTS, (self.stage, "answered"))
        part = status
        if self.stage == "fusion":
            self._page("storefront" if "theme" in status["stages"] else "search", status)
            part = status["stages"]["fusion"]
        self._part(part)
        self.counts.observe(STAGE_BUDGET, (self.stage,), self._budget_ms(ticket, part, answered_ns) / 1e3)

    def _part(self, part: Mapping[str, Any]) -> None:
        stage, counts = self.stage, self.counts
        counts.observe(STAGE_SECONDS, (stage,), part["ms"] / 1e3)
        if "prepared" in part:
            counts.add(PREPARED, (part["prepared"],))
        if self._cache is not None and part["source"] != Source.PREPARED:
            counts.add(STAGE_CACHE, (stage, "hit" if part["source"] == Source.CACHED else "miss"))
        if part["source"] == Source.CACHED:
            return  # findings of the checks were counted when the answer was generated
        for check, number in part["aiqa"].items():
            counts.add(AIQA, (stage, _check(stage, check)), number)
        if "reason" in part or part["source"] == Source.FALLBACK:
            unexplained = [{"engine": NO_ENGINE, "cause": OTHER}]
            for each in part.get("causes") or unexplained:
                counts.add(DEGRADED, (stage, each["engine"], each["cause"]))
        if stage == "retrieval":
            counts.observe(CANDIDATES, (stage,), part["candidates"])
            counts.add(REQUEST_PRODUCTS, ("yes",), part["known_history"])
            counts.add(REQUEST_PRODUCTS, ("no",), part["unknown_ids"])
            if "in_flight" in part:
                counts.observe(IN_FLIGHT, (), part["in_flight"])
        elif stage == "rerank":
            counts.observe(CANDIDATES, (stage,), part["pairs"])

    def _page(self, ensemble: str, status: Mapping[str, Any]) -> None:
        self.counts.add(PAGES, (ensemble, "yes" if status["degraded"] else "no"))
        self.counts.observe(PAGE_SECONDS, (ensemble,), status["ms"] / 1e3)
        for stage, part in status["stages"].items():
            source = part["source"] if part["source"] in STAGES[stage].sources else OTHER
            self.counts.add(PAGE_SOURCE, (ensemble, stage, source))

    def _budget_ms(self, ticket: np.ndarray | None, part: Mapping[str, Any], answered_ns: int) -> float:
        """Budget of the stage at its start, milliseconds."""
        if ticket is None:
            return float(part["budget_ms"])
        deadline_ns: int = getattr(ticket_of(ticket), _DEADLINES.get(self.stage, "deadline_ns"))
        return max(0.0, (deadline_ns - answered_ns) / 1e6 + float(part["ms"]))


def _check(stage: str, name: str) -> str:
    try:
        return STAGES[stage].checks(name).value
    except ValueError:
        return OTHER


class EngineMetrics:
    """Counts the requests and batches of one engine."""

    def __init__(self, engine: str) -> None:
        self.engine, self.counts = engine, MetricSums()
        self.in_flight = 0
        self._lock = threading.Lock()

    @property
    def known(self) -> Iterator[tuple[Metric, tuple[str, ...]]]:
        """Metrics and labels that are there from the start."""
        engine = self.engine
        yield from ((ENGINE_REQUESTS, (engine, outcome)) for outcome in ENGINE_OUTCOMES)
        yield from ((metric, (engine,)) for metric in (ENGINE_SECONDS, ENGINE_BATCH))
        if engine != "theme_llm":
            yield ENGINE_QUEUE, (engine,)
        if engine in ("nearest", "cross_encoder"):
            yield from ((ENGINE_CACHE, (engine, result)) for result in ("hit", "miss"))

    def take(self) -> Sums:
        """See :meth:`Counts.take`."""
        return self.counts.take()

    def arrived(self) -> None:
        """Count a request as in flight until `ended`."""
        with self._lock:
            self.in_flight += 1

    def ended(self, outcome: str, seconds: float) -> None:
        """Count a request that was answered or refused ``seconds`` after its arrival."""
        with self._lock:
            self.in_flight -= 1
        self.counts.add(ENGINE_REQUESTS, (self.engine, outcome))
        self.counts.observe(ENGINE_SECONDS, (self.engine,), seconds)

    def batch(self, requests: int, waited_seconds: list[float]) -> None:
        """Count a batch and the waiting time of each of its requests; for `theme_llm`, the requests in flight."""
        self.counts.observe(ENGINE_BATCH, (self.engine,), requests)
        for seconds in waited_seconds:
            self.counts.observe(ENGINE_QUEUE, (self.engine,), seconds)

    def cache(self, hits: int, misses: int) -> None:
        """Count cache hits and misses."""
        self.counts.add(ENGINE_CACHE, (self.engine, "hit"), hits)
        self.counts.add(ENGINE_CACHE, (self.engine, "miss"), misses)
