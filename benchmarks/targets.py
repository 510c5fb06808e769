"""The targets and the measured values: the first table of a report."""

from dataclasses import asdict, dataclass
from typing import Any

PAGE_SPEEDUP, CACHED_SPEEDUP, SEARCH_SPEEDUP = 3.0, 10.0, 2.3
THROUGHPUT_RATIO, THROUGHPUT_CLIENTS = 4.0, 8
OVERHEAD_MS = 3.0
GOODPUT_SHARE, REJECTION_MS, RECOVERY_S = 0.9, 50.0, 5.0


@dataclass(frozen=True)
class Target:
    """One row; `met` is None if the run did not measure it."""

    name: str
    target: str
    measured: str
    met: bool | None

    def document(self) -> dict[str, Any]:
        """The row as JSON."""
        return asdict(self)


def targets(report: dict[str, Any]) -> list[Target]:
    """The rows of a report, from the parts that were run."""
    speed = report.get("baseline", {}).get("speed", {})
    overload = report.get("load", {}).get("overload") or {}
    return [
        _speedup("Storefront page, uncached, against the baseline", PAGE_SPEEDUP, speed.get("storefront_uncached")),
        _speedup("Storefront page, cached, against the baseline", CACHED_SPEEDUP, speed.get("storefront_cached")),
        _speedup("Search, against the baseline", SEARCH_SPEEDUP, speed.get("search")),
        *(_throughput(report, kind) for kind in ("storefront", "search")),
        *(_overhead(report, kind) for kind in ("storefront", "search")),
        _goodput(overload),
        _rejections(overload),
        _recovery(overload),
        _processes(overload),
    ]  # fmt: skip


def _speedup(name: str, least: float, found: dict[str, Any] | None) -> Target:
    target = f"at least {least:g}x faster"
    if not found:
        return Target(name, target, "not measured", None)
    ratio = found["ratio"]
    measured = f"{ratio['value']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}], {found['requests']} requests"
    return Target(name, target, measured, bool(ratio["value"] >= least))


def _throughput(report: dict[str, Any], kind: str) -> Target:
    name = f"Throughput at {THROUGHPUT_CLIENTS} clients, {kind}, against the baseline's (one after another)"
    target = f"at least {THROUGHPUT_RATIO:g}x"
    speed = report.get("baseline", {}).get("speed", {}).get("storefront_uncached" if kind == "storefront" else kind)
    level = _level(report, kind, THROUGHPUT_CLIENTS)
    if not speed or not level:
        return Target(name, target, "not measured", None)
    samples = speed["baseline_samples_ms"]
    baseline = 1e3 * len(samples) / sum(samples)
    ratio = level["throughput"] / baseline
    measured = f"{ratio:.2f}x ({level['throughput']:.2f}/s against {baseline:.2f}/s)"
    return Target(name, target, measured, ratio >= THROUGHPUT_RATIO)


def _overhead(report: dict[str, Any], kind: str) -> Target:
    name = f"What the ensemble adds to its stages' compute, {kind}, one client"
    target = f"at most {OVERHEAD_MS:g} ms"
    part = report.get("load", {}).get("breakdown", {}).get(kind)
    if part is None:
        return Target(name, target, "not measured", None)
    added, inputs, beyond = part["ensemble_adds_ms"], part["inputs_ms"], part["beyond_stages_median_ms"]
    measured = (
        f"{added:.2f} ms (mean); with Triton's gathering of the stages' inputs {added + inputs:.2f} ms, "
        f"with client and wire {beyond:.2f} ms (median)"
    )
    return Target(name, target, measured, added <= OVERHEAD_MS)


def _goodput(overload: dict[str, Any]) -> Target:
    name, target = "Goodput at 4x the knee", f"at least {GOODPUT_SHARE:.0%} of the knee's"
    share = overload.get("goodput_share_of_knee")
    if share is None:
        return Target(name, target, "not measured", None)
    measured = f"{share:.0%} ({overload['goodput']:.2f}/s against {overload['knee_goodput']:.2f}/s)"
    return Target(name, target, measured, share >= GOODPUT_SHARE)


def _rejections(overload: dict[str, Any]) -> Target:
    name, target = "Rejected requests are answered", f"within {REJECTION_MS:g} ms (p99)"
    if not overload:
        return Target(name, target, "not measured", None)
    if not overload["rejected"]:
        return Target(name, target, f"none of {overload['requests']} was rejected", None)
    took = overload["rejected_p99_ms"]
    measured = f"{took:.1f} ms, {overload['rejected']} of {overload['requests']} rejected"
    return Target(name, target, measured, took <= REJECTION_MS)


def _recovery(overload: dict[str, Any]) -> Target:
    name, target = "Recovery after the overload", f"within {RECOVERY_S:g} s"
    if not overload:
        return Target(name, target, "not measured", None)
    took, recovered = overload["recovery_s"], overload["recovered"]
    measured = f"{took:.1f} s until the last late answer" if recovered else f"still late after {took:.1f} s"
    return Target(name, target, measured, recovered and took <= RECOVERY_S)


def _processes(overload: dict[str, Any]) -> Target:
    name, target = "Processes lost in the overload", "none"
    lost = overload.get("processes_lost")
    if lost is None:
        return Target(name, target, "not measured", None)
    return Target(name, target, str(lost) if lost else "none", lost == 0)


def _level(report: dict[str, Any], kind: str, clients: int) -> dict[str, Any] | None:
    levels: list[dict[str, Any]] = report.get("load", {}).get("closed_loop", [])
    return next((each for each in levels if each["kind"] == kind and each["clients"] == clients), None)
