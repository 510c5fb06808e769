"""Admission in front of a simulated server: what a real one does in minutes, in a clock of our own."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from endcap_server.declared.errors import OverloadError
from endcap_server.stages.admission import Admission
from endcap_server.stages.in_flight import InFlight

MS = 1_000_000


@dataclass
class Job:
    kind: str
    at_ns: int
    key: int
    left_ns: float
    cancelled: bool = False


@dataclass
class Shop:
    """A server that shares itself equally among all requests in flight, beside which each waits ``delay_ms``."""

    admission: Admission
    table: InFlight
    cost_ms: dict[str, float]
    budget_ms: float = 1000
    delay_ms: float = 0
    now_ns: int = 1_000_000_000
    jobs: list[Job] = field(default_factory=list)
    took_ms: dict[str, list[float]] = field(default_factory=dict)
    refused: int = 0

    def run_until(self, end_ns: int) -> None:
        step_ns = MS
        while self.now_ns < end_ns:
            self.now_ns += step_ns
            working = [job for job in self.jobs if self.now_ns - job.at_ns >= self.delay_ms * MS]
            for job in working:
                job.left_ns -= step_ns / len(working)
            for job in [job for job in working if job.left_ns <= 0]:
                self.jobs.remove(job)
                if not job.cancelled:
                    self.table.leave(job.key, self.now_ns)
                    self.took_ms.setdefault(job.kind, []).append((self.now_ns - job.at_ns) / MS)

    def ask(self, kind: str, budget_ms: float | None = None) -> bool:
        budget_ms = budget_ms or self.budget_ms
        try:
            key = self.admission.admit(kind, self.now_ns + int(budget_ms * MS), budget_ms)
        except OverloadError:
            self.refused += 1
            return False
        self.jobs.append(Job(kind, self.now_ns, key, self.cost_ms[kind] * MS))
        return True

    def load(self, kinds: tuple[str, ...], rate: float, seconds: float, seed: int = 1) -> dict[str, int]:
        """Open-loop load; answers in time by kind."""
        self.took_ms, self.refused = {}, 0
        rng, end_ns = random.Random(seed), self.now_ns + int(seconds * 1e9)
        at_ns = self.now_ns
        while (at_ns := at_ns + int(rng.expovariate(rate) * 1e9)) < end_ns:
            self.run_until(at_ns)
            self.ask(rng.choice(kinds))
        self.run_until(end_ns)
        return {kind: sum(took <= self.budget_ms for took in self.took_ms.get(kind, [])) for kind in kinds}


@pytest.fixture
def open_shop(tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    def build(**settings: object) -> Shop:
        table = InFlight(tmp_path)
        shop: Shop = Shop(None, table, **settings)  # type: ignore[arg-type]
        shop.admission = Admission(table, max_in_flight=64, clock=lambda: shop.now_ns)
        return shop

    return build


def test_nothing_is_refused_below_capacity(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop(cost_ms={"page": 100.0})
    answered = shop.load(("page",), rate=6, seconds=30)["page"]
    assert shop.refused <= 0.02 * answered
    assert answered >= 150


@pytest.mark.parametrize("times", [1.5, 4, 20])
def test_goodput_stays_under_overload(open_shop: Callable[..., Shop], times: float) -> None:
    shop = open_shop(cost_ms={"page": 100.0})
    shop.load(("page",), rate=5, seconds=5)
    answered = shop.load(("page",), rate=10 * times, seconds=30)["page"]
    assert answered >= 0.9 * 10 * 30
    assert sum(took > 1000 for took in shop.took_ms["page"]) <= 0.05 * answered


def test_nothing_is_refused_soon_after_an_overload(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop(cost_ms={"page": 100.0})
    shop.load(("page",), rate=80, seconds=10)
    shop.load(("page",), rate=4, seconds=2)
    shop.load(("page",), rate=4, seconds=20)
    assert shop.refused <= 1


@pytest.mark.parametrize("pause_s", [0, 3, 600])
def test_a_burst_on_a_cold_or_idle_server(open_shop: Callable[..., Shop], pause_s: float) -> None:
    shop = open_shop(cost_ms={"page": 100.0})
    if pause_s:
        shop.load(("page",), rate=5, seconds=5)
        shop.run_until(shop.now_ns + int(pause_s * 1e9))
    answered = shop.load(("page",), rate=40, seconds=5)["page"]
    assert answered >= 0.8 * 10 * 5


def test_an_estimate_of_worse_times_does_not_last(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop(cost_ms={"page": 900.0})
    shop.load(("page",), rate=3, seconds=10)
    shop.cost_ms["page"] = 50.0
    shop.load(("page",), rate=10, seconds=3)
    shop.load(("page",), rate=10, seconds=10)
    assert shop.refused <= 3


def test_waiting_for_a_hung_engine_is_no_work(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop(cost_ms={"page": 20.0}, delay_ms=650)
    shop.load(("page",), rate=20, seconds=5)
    answered = shop.load(("page",), rate=20, seconds=20)["page"]
    assert answered >= 0.9 * 20 * 20


def test_dear_and_cheap_requests_share_an_overloaded_server(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop(cost_ms={"page": 150.0, "search": 30.0})
    answered = shop.load(("page", "search"), rate=45, seconds=30)
    assert answered["page"] * 150 + answered["search"] * 30 >= 0.85 * 30_000
    assert answered["page"] >= 0.25 * answered["search"]


def test_a_short_budget_is_refused_where_a_long_one_is_not(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop(cost_ms={"page": 100.0})
    shop.load(("page",), rate=8, seconds=10)
    shop.run_until(shop.now_ns + 2_000 * MS)
    assert [shop.ask("page") for _ in range(4)] == [True] * 4
    with pytest.raises(OverloadError, match=r"overloaded: 4 requests in flight, .* 85% of the budget of 200 ms; try"):
        shop.admission.admit("page", shop.now_ns + 200 * MS, 200)
    assert shop.ask("page")


def test_few_requests_are_always_let_in(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop(cost_ms={"page": 5000.0})
    shop.load(("page",), rate=1, seconds=20)
    shop.run_until(shop.now_ns + 60_000 * MS)
    assert [shop.ask("page", 1) for _ in range(2)] == [True, True]


def test_requests_whose_clients_went_away_do_not_count_for_long(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop(cost_ms={"page": 100.0}, budget_ms=30_000)
    shop.load(("page",), rate=5, seconds=5)
    for _ in range(64):
        assert shop.ask("page")
        shop.jobs[-1].cancelled = True
    assert not shop.ask("page")
    shop.run_until(shop.now_ns + 20_000 * MS)
    assert shop.ask("page")
    assert shop.admission.in_flight < 5


def test_what_fails_at_once_does_not_count(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop(cost_ms={"page": 100.0})
    for _ in range(200):
        shop.admission.withdraw(shop.admission.admit("page", shop.now_ns + 1000 * MS, 1000))
    assert shop.admission.in_flight == 0


def test_never_more_than_max_in_flight(open_shop: Callable[..., Shop]) -> None:
    shop = open_shop(cost_ms={"page": 0.5})
    assert sum(shop.ask("page") for _ in range(100)) == 64
    with pytest.raises(OverloadError, match="64 requests in flight, the most that max_in_flight allows"):
        shop.admission.admit("page", shop.now_ns + 1000 * MS, 1000)
