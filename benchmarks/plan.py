"""The amounts that a run measures. A default run takes about ten minutes, a quick run two or three."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Part = Literal["baseline", "load", "engines", "relevance", "profile"]
PARTS: tuple[Part, ...] = ("baseline", "load", "engines", "relevance", "profile")


@dataclass(frozen=True)
class Plan:
    """The parts and amounts of one run; see `python -m benchmarks --help` for the options that change it."""

    build: Path
    catalogue: Path
    out: Path
    address: str = ""
    key_file: Path | None = None
    seed: int = 7
    parts: tuple[Part, ...] = ("baseline", "load", "engines", "relevance")
    placements: int = 4
    products: int = 12
    budget_ms: int = 2000
    """Latency budget of the open loop; knee and goodput are measured against it."""
    search_share: float = 0.5
    """Share of searches among the open loop's requests."""

    pages: int = 30
    searches: int = 30
    """Requests that system and baseline answer in alternation."""
    rounds: int = 3
    """Number of rounds; each round measures every level of load once."""
    concurrency: tuple[int, ...] = (1, 2, 4, 8)
    closed_s: float = 5.0
    rates: tuple[float, ...] = ()
    """Arrivals per second; if empty, `rate_shares` of the throughput of one client."""
    rate_shares: tuple[float, ...] = (0.3, 0.6, 0.9, 1.2, 1.5)
    open_s: float = 10.0
    overload: float = 4.0
    """Overload as a multiple of the knee."""
    overload_s: float = 10.0
    recovery_s: float = 10.0
    engine_requests: int = 3
    """Requests of each kind whose engine calls are timed."""
    engine_rounds: int = 5
    """Rounds of the engines' own measurements."""
    llm_requests: int = 16
    relevance_queries: int = 200
    """Held-out queries for the order of judged products."""
    relevance_corpus: int = 30
    """Those of them for which the whole corpus is ranked as well."""

    def quick(self) -> "Plan":
        """The same plan with smaller amounts; the figures are indications only."""
        return replace(
            self,
            pages=6,
            searches=8,
            rounds=2,
            concurrency=(1, 8),
            closed_s=3.0,
            rate_shares=(0.5, 1.0, 1.5),
            open_s=4.0,
            overload_s=6.0,
            recovery_s=6.0,
            engine_requests=2,
            engine_rounds=2,
            llm_requests=8,
            relevance_queries=60,
            relevance_corpus=10,
        )

    def with_requests(self, count: int) -> "Plan":
        """The same plan with this number of pages and searches for the comparison with the baseline."""
        return replace(self, pages=count, searches=count)

    def with_load(self, rates: tuple[float, ...], concurrency: tuple[int, ...]) -> "Plan":
        """The same plan with these levels of load."""
        return replace(self, rates=rates, concurrency=concurrency)

    def with_seconds(self, seconds: float) -> "Plan":
        """The same plan with this duration of every phase of load."""
        return replace(self, closed_s=seconds, open_s=seconds, overload_s=seconds, recovery_s=seconds)

    def seconds(self) -> float:
        """Approximate duration of the parts on a machine with two cores, for the progress display."""
        levels = 2 * len(self.concurrency) * self.closed_s * 1.3
        rates = (len(self.rates) or len(self.rate_shares)) * (self.open_s + 1)
        spent: dict[Part, float] = {
            "baseline": 15 + 3 * self.pages + self.searches,
            "load": 10 + self.rounds * (levels + rates) + self.overload_s + self.recovery_s,
            "engines": 20 + 6 * self.engine_rounds + 4 * self.llm_requests,
            "relevance": 15 + 0.6 * self.relevance_corpus,
            "profile": 5,
        }
        return 15 + sum(spent[part] for part in self.parts)


def rates_of(plan: Plan, one_client: float) -> Sequence[float]:
    """The open loop's rates, from the throughput of one client (requests per second)."""
    return plan.rates or tuple(round(share * one_client, 2) for share in plan.rate_shares)
