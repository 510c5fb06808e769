"""Compares pages of two generations: common products, differences of scores, latency."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from endcap_server.apply.limits import RolloutLimits
from endcap_server.apply.replay import Asker, ReplayAnswer, ReplaySample

_LONGEST_PAUSE_S = 0.5


@dataclass(frozen=True)
class Comparison:
    """Figures of a sample of requests that both generations were asked.

    Attributes:
        requests: number of requests.
        compared: pairs of pages of which neither failed or degraded.
        overlap: mean share of live's best ten products that the other shows, too; the lower of both ensembles.
        drift: mean absolute difference of the scores of products that both show; the larger of both ensembles.
        live_ms: median latency of the live generation.
        staged_ms: the same of the other.
        errors: requests that failed although live answered them.
        live_fallback: share of live's pages that were degraded.
        staged_fallback: the same of the other.
        first_error: message of the first error, and its request.
    """

    requests: int
    compared: int
    overlap: float
    drift: float
    live_ms: float
    staged_ms: float
    errors: int
    live_fallback: float
    staged_fallback: float
    first_error: str = ""

    def broken(self, limits: RolloutLimits) -> list[str]:
        """Sentences about the limits that are exceeded."""
        found = []
        if self.requests and self.errors / self.requests > limits.max_error_share:
            share = f"{self.errors} of {self.requests} requests failed that live answers"
            found.append(f"{share} (max_error_share {limits.max_error_share:g}): {self.first_error}")
        if self.staged_fallback - self.live_fallback > limits.max_fallback_rise:
            found.append(
                f"{self.staged_fallback:.0%} of the pages are degraded, {self.live_fallback:.0%} of live's "
                f"(max_fallback_rise {limits.max_fallback_rise:g})"
            )
        if self.compared and self.overlap < limits.min_overlap:
            found.append(f"overlap@10 {self.overlap:.2f} (min_overlap {limits.min_overlap:g})")
        if self.compared and self.drift > limits.max_drift:
            found.append(f"score drift {self.drift:.3f} (max_drift {limits.max_drift:g})")
        slower_ms = self.staged_ms - self.live_ms
        if slower_ms > limits.latency_slack_ms and self.staged_ms > limits.max_latency_ratio * self.live_ms:
            found.append(
                f"median latency {self.staged_ms:.0f} ms, {self.live_ms:.0f} ms live "
                f"(max_latency_ratio {limits.max_latency_ratio:g})"
            )
        return found

    def lines(self) -> list[tuple[str, str, str]]:
        """(figure, live, the other), as texts."""
        return [
            ("median latency", f"{self.live_ms:.1f} ms", f"{self.staged_ms:.1f} ms"),
            ("degraded pages", f"{self.live_fallback:.0%}", f"{self.staged_fallback:.0%}"),
            ("failed requests", "0", str(self.errors)),
            ("overlap@10", "", f"{self.overlap:.3f}" if self.compared else "nothing to compare"),
            ("score drift", "", f"{self.drift:.4f}" if self.compared else "nothing to compare"),
        ]

    def document(self) -> dict[str, Any]:
        """All figures, for the history."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in vars(self).items()}


def compare(asker: Asker, samples: Sequence[ReplaySample], live: dict[str, str], staged: dict[str, str]) -> Comparison:
    """Send every request to both generations, in alternation.

    The staged generation gets each request once before, so that its caches and kernels are warm, too.

    Args:
        asker: Sends the requests.
        samples: The requests.
        live: Public ensemble -> its name in the server, of the live generation.
        staged: The same of the other.
    """
    for sample in samples:
        _ask(asker, sample, staged)
    pairs = []
    for number, sample in enumerate(samples):
        order = (live, staged) if number % 2 else (staged, live)
        first, second = (_ask(asker, sample, names) for names in order)
        pairs.append((sample, first, second) if number % 2 else (sample, second, first))
    return _figures(pairs)


def _ask(asker: Asker, sample: ReplaySample, names: dict[str, str]) -> ReplayAnswer:
    """Send a request, then wait as long as it took, so that shoppers' requests are not delayed."""
    answer = asker.ask(sample, names[sample.ensemble])
    time.sleep(min(answer.seconds, _LONGEST_PAUSE_S))
    return answer


def _figures(pairs: Sequence[tuple[ReplaySample, ReplayAnswer, ReplayAnswer]]) -> Comparison:
    # A request that the live generation cannot answer either (for example, because of load) does not count.
    asked = [(sample, live, staged) for sample, live, staged in pairs if not live.error and not staged.overloaded]
    failed = [(sample, staged) for sample, _, staged in asked if staged.error]
    good = [(live, staged) for _, live, staged in asked if not staged.error]
    whole = [each for each in asked if not each[2].error and not each[1].degraded and not each[2].degraded]
    # By ensemble: many unchanged storefronts must not hide that searches have changed.
    overlaps, drifts = defaultdict(list), defaultdict(list)
    for sample, live, staged in whole:
        overlaps[sample.ensemble].append(_overlap(live, staged))
        if (drift := _drift(live, staged)) is not None:
            drifts[sample.ensemble].append(drift)
    first = f"{failed[0][1].error} ({failed[0][0]})" if failed else ""
    return Comparison(
        requests=len(asked),
        compared=len(whole),
        overlap=min(map(fmean, overlaps.values()), default=0.0),
        drift=max(map(fmean, drifts.values()), default=0.0),
        live_ms=1e3 * median([live.seconds for live, _ in good]) if good else 0.0,
        staged_ms=1e3 * median([staged.seconds for _, staged in good]) if good else 0.0,
        errors=len(failed),
        live_fallback=fmean([live.degraded for live, _ in good]) if good else 0.0,
        staged_fallback=fmean([staged.degraded for _, staged in good]) if good else 0.0,
        first_error=first[:500],
    )


def _overlap(live: ReplayAnswer, staged: ReplayAnswer) -> float:
    return len(live.best & staged.best) / len(live.best) if live.best else float(not staged.best)


def _drift(live: ReplayAnswer, staged: ReplayAnswer) -> float | None:
    common = live.scores.keys() & staged.scores.keys()
    return fmean([abs(live.scores[each] - staged.scores[each]) for each in common]) if common else None
