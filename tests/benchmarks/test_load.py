"""Summaries of load phases."""

import math
import socket

import numpy as np
import pytest

from benchmarks.load import LoadGenerator, LoadSample, Phase, arrival_times, rate_point, summary
from benchmarks.load_part import overload_document
from benchmarks.measures import RatePoint


def sample(
    start: float, ms: float, error: str = "", step: int = 0, late: float = 0.0, kind: str = "search"
) -> LoadSample:
    return LoadSample(kind, step, start, start + late, start + late + ms / 1e3, error, stage_ms={"rerank": ms / 2})


def test_latency_counts_from_the_intended_start() -> None:
    assert sample(1.0, 100, late=0.4).latency_ms == pytest.approx(500)
    assert sample(1.0, 100, late=0.4).round_trip_ms == pytest.approx(100)
    assert sample(1.0, 100, error="Refused").latency_ms == math.inf


def test_closed_loop_throughput_is_by_littles_law() -> None:
    phase = Phase((), [(1.0, 10.0)], clients=2, budget_ms=150)
    figures = summary([sample(0, 100), sample(0, 200), sample(0.1, 100), sample(0.2, 200, kind="storefront")], phase)
    assert figures["throughput"] == pytest.approx(2 / 0.150, abs=0.001)
    assert figures["goodput"] == pytest.approx(figures["throughput"] / 2, abs=0.001)
    assert figures["stage_ms"] == {"rerank": 75.0}
    assert figures["kinds"]["storefront"]["requests"] == 1


def test_open_loop_counts_errors_and_the_window() -> None:
    phase = Phase((), [(2.0, 5.0)], budget_ms=150)
    samples = [sample(0, 100), sample(1, 200), sample(2, 20, error="Overloaded"), sample(3, 9, error="Refused")]
    figures = summary(samples, phase)
    assert figures["throughput"] == pytest.approx(2 / 5)
    assert figures["goodput"] == pytest.approx(1 / 5)
    assert figures["errors"] == {"Overloaded": 1, "Refused": 1}
    assert rate_point(samples, 2.0, 150, 5.0) == RatePoint(2.0, math.inf, 1 / 5)


def test_overload_figures() -> None:
    """Five good answers of a second, five rejections, and late answers until 1.5 s into the recovery."""
    phase = Phase((), [(10.0, 1.0), (2.0, 5.0)], budget_ms=1000)
    over = [sample(n / 10, 500) for n in range(5)] + [sample(n / 10, 20, "Overloaded") for n in range(5)]
    after = [sample(1.5, 1500, step=1), sample(2.5, 1200, step=1), sample(3.5, 300, step=1), sample(4.5, 300, step=1)]
    found = overload_document(over + after, phase, RatePoint(2.5, 900, 5.0))
    assert found["goodput_share_of_knee"] == pytest.approx(1.0)
    assert (found["rejected"], found["requests"]) == (5, 10)
    assert found["rejected_p99_ms"] == pytest.approx(20)
    assert found["recovery_s"] == pytest.approx(1.5)
    assert found["recovered"]
    late = overload_document([*over, sample(5.5, 3000, step=1)], phase, RatePoint(2.5, 900, 5.0))
    assert not late["recovered"]


def test_arrivals_are_poisson() -> None:
    times = list(arrival_times([[20.0, 50.0], [5.0, 100.0]], np.random.default_rng(1)))
    seconds = np.array([when for when, _ in times])
    assert (np.diff(seconds) > 0).all()
    first, second = (sum(step == number for _, step in times) for number in (0, 1))
    assert 880 < first < 1120
    assert 410 < second < 590
    assert max(when for when, step in times if step == 0) < 50 <= min(when for when, step in times if step == 1)
    gaps = np.diff(seconds[:first])
    assert 0.85 < gaps.std() / gaps.mean() < 1.15, "exponential gaps: as wide as they are long"


def test_no_server_is_an_error_not_a_result(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(RuntimeError, match="the load generator ended with status 1"), LoadGenerator(address):
        pass
    assert f"no server with both ensembles at {address}" in capfd.readouterr().err
