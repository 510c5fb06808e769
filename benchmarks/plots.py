"""The report's plots: matplotlib, as inline SVG whose text and axes take the colour of the page around them."""

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib
from endcap_server.ensembles import STAGES

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

SYSTEM, BASELINE, ACCENT, WARN = "#2f7fd6", "#c9762b", "#3a9d6e", "#d0454c"
STAGE_COLOURS = ("#5b8ff9", "#9270ca", "#5ad8a6", "#f08c3a", "#8d99ae")
_INK, _GRID = "#010203", "#040506"
"""Placeholder colours; the page replaces them with its own, which differ in light and dark mode."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2,
    "lines.markersize": 5,
}


def plots(report: Mapping[str, Any]) -> dict[str, str]:
    """SVG texts by name, for the parts that the report contains."""
    load, speed = report.get("load") or {}, (report.get("baseline") or {}).get("speed", {})
    drawn: dict[str, str] = {}
    if speed:
        drawn["speed"] = _draw("speed", lambda axes: _speed(axes, speed))
        drawn["stages"] = _draw("stages", lambda axes: _stages(axes, speed))
    if load.get("closed_loop"):
        drawn["throughput"] = _draw("throughput", lambda axes: _throughput(axes, load["closed_loop"], speed))
        drawn["clients"] = _draw("clients", lambda axes: _clients(axes, load["closed_loop"]))
    if load.get("open_loop"):
        budget = report["plan"]["budget_ms"]
        drawn["rates"] = _draw("rates", lambda axes: _rates(axes, load, budget))
        drawn["shares"] = _draw("shares", lambda axes: _shares(axes, load["open_loop"]))
    if load.get("overload"):
        budget = report["plan"]["budget_ms"]
        drawn["overload"] = _draw("overload", lambda axes: _overload(axes, load["overload"], budget), wide=True)
    if (report.get("memory") or {}).get("processes"):
        drawn["memory"] = _draw("memory", lambda axes: _memory(axes, report["memory"]))
    return drawn


def _draw(name: str, draw: Callable[[Axes], None], wide: bool = False) -> str:
    # Several plots share a page: the salt makes identifiers unique, and makes the output of a run reproducible.
    with pyplot.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure, axes = pyplot.subplots(figsize=(11, 3.4) if wide else (5.4, 3.4), layout="constrained")
        draw(axes)
        # At the left edge of the drawing, not of the axes: otherwise long labels would push a title out at the right.
        figure.suptitle(axes.get_title(loc="left"), x=0.01, ha="left", fontsize=11, fontweight="bold")
        axes.set_title("", loc="left")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    return themed(buffer.getvalue())


def themed(svg: str) -> str:
    """The `<svg>` element alone, with the placeholder colours replaced by the page's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(_INK, "currentColor").replace(_GRID, "var(--grid)")
    # Without width and height the drawing fills its container; the viewBox keeps the aspect ratio.
    head, rest = svg[: svg.index(">")], svg[svg.index(">") :]
    return re.sub(r'\s(?:width|height)="[^"]*"', "", head) + rest


def _speed(axes: Axes, speed: Mapping[str, Any]) -> None:
    names = {"storefront_uncached": "page, uncached", "storefront_cached": "page, cached", "search": "search"}
    rows = [(names[key], speed[key]["ratio"]) for key in names if key in speed]
    values = [ratio["value"] for _, ratio in rows]
    # With few requests, the interval may not contain their own median.
    below = [max(0.0, ratio["value"] - ratio["low"]) for _, ratio in rows]
    above = [max(0.0, ratio["high"] - ratio["value"]) for _, ratio in rows]
    axes.barh([name for name, _ in rows], values, color=SYSTEM, height=0.55)
    axes.errorbar(values, range(len(rows)), xerr=[below, above], fmt="none", ecolor=_INK, elinewidth=1.2, capsize=3)
    for place, (_, ratio) in enumerate(rows):
        axes.annotate(f"{ratio['value']:.1f}x", (ratio["high"], place), (6, 0), textcoords="offset points", va="center")
    axes.axvline(1, color=BASELINE, linestyle="--", linewidth=1.2)
    axes.set(title="Times faster than the naive baseline", xlim=(0, 1.2 * max(r["high"] for _, r in rows)))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def _stages(axes: Axes, speed: Mapping[str, Any]) -> None:
    rows = []
    for key, name in (("storefront_uncached", "page"), ("search", "search")):
        if key in speed:
            rows += [(f"{name}, baseline", speed[key]["baseline_stage_ms"])]
            rows += [(f"{name}, endcap", speed[key]["system_stage_ms"])]
    stages = list(dict.fromkeys(stage for _, taken in rows for stage in taken))
    order = [stage for stage in STAGES if stage in stages]
    left = [0.0] * len(rows)
    for stage, colour in zip(order, STAGE_COLOURS, strict=False):
        values = [taken.get(stage, 0.0) for _, taken in rows]
        axes.barh([name for name, _ in rows], values, left=left, color=colour, label=stage, height=0.6)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set(title="Median time by stage, one request at a time", xlabel="ms")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.legend(ncols=3, loc="lower right")


def _throughput(axes: Axes, levels: list[dict[str, Any]], speed: Mapping[str, Any]) -> None:
    for kind, colour, baseline in (("storefront", SYSTEM, "storefront_uncached"), ("search", ACCENT, "search")):
        of_kind = [level for level in levels if level["kind"] == kind]
        clients = [level["clients"] for level in of_kind]
        axes.plot(clients, [level["throughput"] for level in of_kind], marker="o", color=colour, label=kind)
        if baseline in speed:
            samples = speed[baseline]["baseline_samples_ms"]
            rate = 1e3 * len(samples) / sum(samples)
            axes.axhline(rate, color=colour, linestyle="--", linewidth=1.2, label=f"{kind}, baseline")
    axes.set(title="Throughput, closed loop", xlabel="clients", ylabel="answers a second", ylim=(0, None))
    axes.set_xticks(sorted({level["clients"] for level in levels}))
    axes.legend()


def _clients(axes: Axes, levels: list[dict[str, Any]]) -> None:
    for kind, colour in (("storefront", SYSTEM), ("search", ACCENT)):
        of_kind = [level for level in levels if level["kind"] == kind and level["latency_ms"]]
        clients = [level["clients"] for level in of_kind]
        for name, style in (("p50", "-"), ("p95", "--")):
            values = [level["latency_ms"][name] for level in of_kind]
            axes.plot(clients, values, style, marker="o", color=colour, label=f"{kind}, {name}")
    axes.set(title="Latency, closed loop", xlabel="clients", ylabel="ms", ylim=(0, None))
    axes.set_xticks(sorted({level["clients"] for level in levels}))
    axes.legend()


def _rates(axes: Axes, load: Mapping[str, Any], budget_ms: float) -> None:
    points = [point for point in load["open_loop"] if point["latency_ms"]]
    rates = [point["rate"] for point in points]
    for name, colour in (("p50", ACCENT), ("p95", SYSTEM), ("p99", WARN)):
        axes.plot(rates, [point["latency_ms"][name] for point in points], marker="o", color=colour, label=name)
    axes.axhline(budget_ms, color=_INK, linestyle=":", linewidth=1.2, label="budget")
    if load["knee"]:
        axes.axvline(load["knee"]["rate"], color=_INK, linestyle="--", linewidth=1, label="knee")
    axes.set(title="Latency, open loop", xlabel="arrivals a second", ylabel="ms", ylim=(0, None), xlim=(0, None))
    axes.legend()


def _shares(axes: Axes, points: list[dict[str, Any]]) -> None:
    rates = [point["rate"] for point in points]
    for name, colour, label in (
        ("degraded_share", "#e0a030", "degraded, if only in part"),
        ("fallback_share", WARN, "a stage fell back"),
        ("cached_share", ACCENT, "themes or keywords cached"),
    ):
        axes.plot(rates, [100 * point[name] for point in points], marker="o", color=colour, label=label)
    axes.set(
        title="Share of answers, open loop", xlabel="arrivals a second", ylabel="%", ylim=(-3, 103), xlim=(0, None)
    )
    axes.legend()


def _overload(axes: Axes, overload: Mapping[str, Any], budget_ms: float) -> None:
    groups: dict[str, tuple[list[float], list[float]]] = {}
    for when, took_ms, error in overload["timeline"]:
        name = {"": "answered", "Overloaded": "rejected"}.get(error, error)
        group = groups.setdefault(name, ([], []))
        group[0].append(when)
        group[1].append(took_ms)
    colours = {"answered": SYSTEM, "rejected": "#e0a030"}
    for name, (when, took) in groups.items():
        axes.plot(when, took, ".", markersize=6, color=colours.get(name, WARN), label=name)
    axes.axvspan(0, overload["overload_s"], color=WARN, alpha=0.08, linewidth=0)
    axes.axhline(budget_ms, color=_INK, linestyle=":", linewidth=1.2, label="budget")
    axes.set(
        title=f"Overload at {overload['rate']:g} arrivals a second, then recovery",
        xlabel="intended start, s",
        ylabel="ms until the answer",
        ylim=(0, None),
    )
    axes.legend(ncols=4, loc="upper right")


def _memory(axes: Axes, memory: Mapping[str, Any]) -> None:
    rows = sorted(memory["processes"].items(), key=lambda row: -row[1]["pss_mb"])
    axes.barh([name for name, _ in rows], [use["pss_mb"] for _, use in rows], color=SYSTEM, height=0.65)
    title = f"Memory: server {memory['total']['pss_mb']:.0f} MB"
    if memory.get("baseline_pss_mb"):
        title += f", naive baseline {memory['baseline_pss_mb']:.0f} MB"
    axes.set(title=title, xlabel="proportional set size, MB")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
