"""The load part of a run: closed loop, open loop, overload, and and the server's own metrics."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks import statistics
from benchmarks.load import LoadGenerator, LoadSample, Phase, rate_point, summary
from benchmarks.machine import yardstick
from benchmarks.measures import RatePoint, knee
from benchmarks.plan import Plan, rates_of
from benchmarks.processes import between
from benchmarks.replay import Kind, Replay, ReplayedRequest
from benchmarks.serving import Served

KINDS: tuple[Kind, ...] = ("storefront", "search")
REJECTED = "Overloaded"
_COMPLETE_MS = 20_000
"""Budget of the closed loop: long enough that no stage falls back under load."""
_WARM = 3
_MORE_RATES, _RATE_STEP = 3, 1.6
"""Number of rates that a search for the knee adds, and the factor between them."""


@dataclass
class Level:
    """One level of load over all its rounds."""

    phase: Phase
    samples: list[list[LoadSample]] = field(default_factory=list)
    models: list[dict[str, statistics.ModelStatistics]] = field(default_factory=list)
    use: list[dict[str, Any]] = field(default_factory=list)

    @property
    def all(self) -> list[LoadSample]:
        """The samples of all rounds."""
        return [sample for each in self.samples for sample in each]

    @property
    def rounds_ms(self) -> list[list[float]]:
        """Latencies of each round's answers."""
        return [[round(s.latency_ms, 1) for s in each if not s.error] for each in self.samples]

    def document(self) -> dict[str, Any]:
        """Summary, Triton's statistics of all rounds, processes of the last one."""
        whole = Phase(
            (),
            [step for _ in self.samples for step in self.phase.steps],
            self.phase.clients,
            budget_ms=self.phase.budget_ms,
        )
        total: dict[str, statistics.ModelStatistics] = {}
        for each in self.models:
            total = {name: _added(total.get(name), model) for name, model in each.items()}
        return {
            **summary(self.all, whole),
            "models": {name: model.document() for name, model in total.items() if model.requests},
            **({"use": self.use[-1]} if self.use else {}),
        }


class LoadPart:
    """Runs the phases of a plan against one server."""

    def __init__(self, plan: Plan, served: Served, replay: Replay, say: Callable[[str], None]):
        self.plan, self.served, self.replay, self.say = plan, served, replay, say
        self.yardstick_ms: list[list[float]] = []

    def run(self) -> dict[str, Any]:
        """Measure everything; the `load` part of the report, with the series for comparisons of reports."""
        plan = self.plan
        with LoadGenerator(self.served.address) as generator:
            self._warm(generator)
            closed: dict[tuple[Kind, int], Level] = {}
            for number in range(plan.rounds):
                self._closed_round(generator, number, closed)
            alone = {kind: closed[kind, min(plan.concurrency)].document() for kind in KINDS}
            one_client = _mixed_throughput(alone, plan.search_share)
            opened, points, best = self._open_loop(generator, one_client)
            overload = self._overload(generator, best) if best else None
        return {
            "closed_loop": [
                {"kind": kind, "clients": clients, **level.document()} for (kind, clients), level in closed.items()
            ],
            "open_loop": [
                {"rate": rate, "p99_ms": _finite(point.p99_ms), "goodput_of_window": round(point.goodput, 3)}
                | level.document()
                for (rate, level), point in zip(opened.items(), points, strict=True)
            ],
            "knee": None if best is None else asdict(best) | {"highest_rate_tried": best.rate == max(opened)},
            "overload": overload,
            "one_client_mixed_throughput": round(one_client, 3),
            "series": _series(closed, opened),
        }  # fmt: skip

    def _open_loop(
        self, generator: LoadGenerator, one_client: float
    ) -> tuple[dict[float, Level], list[RatePoint], RatePoint | None]:
        """Measure the plan's rates, and further rates if the knee is outside them."""
        plan = self.plan
        opened = {rate: Level(self._open_phase([(rate, plan.open_s)])) for rate in sorted(rates_of(plan, one_client))}
        self._open_rounds(generator, opened)
        points, best = self._knee(opened)
        for _ in range(0 if plan.rates else _MORE_RATES):
            if best is None:
                rate = round(min(opened) / _RATE_STEP, 3)
            elif best.rate == max(opened):
                rate = round(max(opened) * _RATE_STEP, 3)
            else:
                break
            level = Level(self._open_phase([(rate, plan.open_s)]))
            self._open_rounds(generator, {rate: level})
            opened = dict(sorted({**opened, rate: level}.items()))
            points, best = self._knee(opened)
        return opened, points, best

    def _warm(self, generator: LoadGenerator) -> None:
        self.say("warming up")
        for requests in (self.replay.storefronts(_WARM), self.replay.searches(_WARM)):
            generator.run(self._closed_phase(requests, 1, 1.0))

    def _closed_round(self, generator: LoadGenerator, number: int, levels: dict[tuple[Kind, int], Level]) -> None:
        plan = self.plan
        self.yardstick_ms.append([yardstick() for _ in range(5)])
        for clients in plan.concurrency:
            for kind in KINDS:
                self.say(f"closed loop, {clients} client(s), {kind}, round {number + 1} of {plan.rounds}")
                # More requests than fit in the time, so that no shopper repeats.
                count = int(plan.closed_s * 40) if kind == "search" else int(plan.closed_s * 12)
                requests = self.replay.searches(count) if kind == "search" else self.replay.storefronts(count)
                phase = self._closed_phase(requests, clients, plan.closed_s)
                level = levels.setdefault((kind, clients), Level(phase))
                level.phase = phase
                self._visit(generator, level)

    def _open_rounds(self, generator: LoadGenerator, levels: Mapping[float, Level]) -> None:
        for number in range(self.plan.rounds):
            self.yardstick_ms.append([yardstick() for _ in range(5)])
            for rate, level in levels.items():
                self.say(f"open loop, {rate:g}/s, round {number + 1} of {self.plan.rounds}")
                self._visit(generator, level)

    def _knee(self, levels: Mapping[float, Level]) -> tuple[list[RatePoint], RatePoint | None]:
        budget_ms, seconds = self.plan.budget_ms, self.plan.rounds * self.plan.open_s
        points = [rate_point(level.all, rate, budget_ms, seconds) for rate, level in levels.items()]
        return points, knee(points, budget_ms)

    def _closed_phase(self, requests: list[ReplayedRequest], clients: int, seconds: float) -> Phase:
        return Phase(
            requests,
            [(1.0, seconds)],
            clients,
            timeout_s=_COMPLETE_MS / 1e3 + 2,
            budget_ms=_COMPLETE_MS,
            placements=self.plan.placements,
            products=self.plan.products,
        )

    def _open_phase(self, steps: list[tuple[float, float]], seed: int = 0) -> Phase:
        plan = self.plan
        count = int(1.5 * sum(rate * seconds for rate, seconds in steps)) + 10
        return Phase(
            self.replay.traffic(count, plan.search_share),
            steps,
            timeout_s=2 * plan.budget_ms / 1e3,
            budget_ms=plan.budget_ms,
            placements=plan.placements,
            products=plan.products,
            seed=plan.seed + seed,
        )

    def _visit(self, generator: LoadGenerator, level: Level) -> None:
        """One round of a level, between two readings of the server's statistics."""
        if not level.phase.clients:
            # New arrivals and new shoppers in every round.
            level.phase = self._open_phase(list(level.phase.steps), seed=1 + len(level.samples))
        processes = self.served.processes
        models = statistics.snapshot(self.served.triton)
        before, start = processes.use() if processes else {}, time.monotonic()
        level.samples.append(generator.run(level.phase))
        seconds = time.monotonic() - start
        if processes:
            level.use.append(between(before, processes.use(), seconds))
        level.models.append(statistics.difference(models, statistics.snapshot(self.served.triton)))

    def _overload(self, generator: LoadGenerator, best: RatePoint) -> dict[str, Any]:
        """Load of a multiple of the knee, then of half the knee: answers, refusals, and the recovery time."""
        plan = self.plan
        rate = plan.overload * best.rate
        self.say(f"overload, {rate:g}/s, then {best.rate / 2:g}/s")
        phase = self._open_phase([(rate, plan.overload_s), (best.rate / 2, plan.recovery_s)], seed=99)
        pids = self.served.processes.pids() if self.served.processes else set()
        samples = generator.run(phase)
        now = self.served.processes.pids() if self.served.processes else set()
        return overload_document(samples, phase, best) | {
            "processes_lost": len(pids - now) if self.served.processes else None
        }


def overload_document(samples: list[LoadSample], phase: Phase, best: RatePoint) -> dict[str, Any]:
    """Figures of a phase with two steps: overload, then low load."""
    (rate, seconds), _ = phase.steps
    over = [sample for sample in samples if sample.step == 0]
    rejected = [sample.round_trip_ms for sample in samples if sample.error == REJECTED]
    good = sum(sample.latency_ms <= phase.budget_ms for sample in over) / seconds
    late = [s.intended_s for s in samples if s.step == 1 and not s.latency_ms <= phase.budget_ms]
    timeline = [
        (round(s.intended_s, 3), round(s.round_trip_ms if s.error else s.latency_ms, 1), s.error) for s in samples
    ]
    return {
        "rate": round(rate, 3),
        "goodput": round(good, 3),
        "knee_goodput": round(best.goodput, 3),
        "goodput_share_of_knee": round(good / best.goodput, 4) if best.goodput else None,
        "rejected": len(rejected),
        "requests": len(over),
        "rejected_p99_ms": _finite(sorted(rejected)[int(0.99 * (len(rejected) - 1))]) if rejected else None,
        "recovery_s": round(max(late) - seconds, 3) if late else 0.0,
        "recovered": not late or max(late) < phase.seconds - 1.0,
        "errors": summary(over, phase)["errors"],
        "fallback_share": summary(over, phase)["fallback_share"],
        "overload_s": seconds,
        "timeline": sorted(timeline),
    }


def _mixed_throughput(alone: Mapping[Kind, Mapping[str, Any]], search_share: float) -> float:
    """Requests per second of one client that mixes both kinds."""
    for kind, level in alone.items():
        if not level["throughput"]:
            raise RuntimeError(f"{kind}: expected answers, got none of {level['requests']} requests: {level['errors']}")
    seconds = (1 - search_share) / alone["storefront"]["throughput"] + search_share / alone["search"]["throughput"]
    return 1 / seconds


def _series(closed: dict[tuple[Kind, int], Level], opened: dict[float, Level]) -> dict[str, Any]:
    """The series for comparisons of reports: latencies in rounds, by name."""
    series: dict[str, Any] = {}
    for (kind, clients), level in closed.items():
        series[f"{kind}, {clients} at a time"] = {"unit": "ms", "rounds": level.rounds_ms}
    for number, level in enumerate(opened.values(), 1):
        rate = level.phase.steps[0][0]
        series[f"traffic, rate {number}"] = {"unit": "ms", "rounds": level.rounds_ms, "rate": rate}
    return series


def _added(one: statistics.ModelStatistics | None, two: statistics.ModelStatistics) -> statistics.ModelStatistics:
    return two if one is None else one - (statistics.ModelStatistics() - two)


def _finite(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None
