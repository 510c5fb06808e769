"""How much is measured: a default run of some ten minutes, a quick one of two or three."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Part = Literal["baseline", "load", "engines", "relevance", "profile"]
PARTS: tuple[Part, ...] = ("baseline", "load", "engines", "relevance", "profile")


@dataclass(frozen=True)
class Plan:
    """What one run measures; see `python -m benchmarks --help` for the options that change it."""

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
    """Until when an answer is worth something: of the open loop, whose knee and goodput count by it."""
    search_share: float = 0.5
    """Of the open loop's requests."""

    pages: int = 30
    searches: int = 30
    """Requests on which system and baseline take turns."""
    rounds: int = 3
    """How often each level of load is visited, in turns."""
    concurrency: tuple[int, ...] = (1, 2, 4, 8)
    closed_s: float = 5.0
    rates: tuple[float, ...] = ()
    """Arrivals a second; empty: shares of what one client at a time gets through."""
    rate_shares: tuple[float, ...] = (0.3, 0.6, 0.9, 1.2, 1.5)
    open_s: float = 10.0
    overload: float = 4.0
    """Times the knee."""
    overload_s: float = 10.0
    recovery_s: float = 10.0
    engine_requests: int = 3
    """Requests whose engine calls are timed, of each kind."""
    engine_rounds: int = 5
    """Rounds of the engines' own measurements."""
    llm_requests: int = 16
    relevance_queries: int = 200
    """Held-out queries on which the order of judged products is measured."""
    relevance_corpus: int = 30
    """Those of them for which the whole corpus is ranked."""

    def quick(self) -> "Plan":
        """The same with less of everything: figures to look at, not to quote."""
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
        """The same with this many pages and searches in turns with the baseline."""
        return replace(self, pages=count, searches=count)

    def with_load(self, rates: tuple[float, ...], concurrency: tuple[int, ...]) -> "Plan":
        """The same with these levels of load."""
        return replace(self, rates=rates, concurrency=concurrency)

    def with_seconds(self, seconds: float) -> "Plan":
        """The same with every phase of load this long."""
        return replace(self, closed_s=seconds, open_s=seconds, overload_s=seconds, recovery_s=seconds)

    def seconds(self) -> float:
        """About how long the parts take, for the progress that is shown; a machine with two cores."""
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
    """The open loop's rates, from the throughput of one client at a time (requests a second)."""
    return plan.rates or tuple(round(share * one_client, 2) for share in plan.rate_shares)
