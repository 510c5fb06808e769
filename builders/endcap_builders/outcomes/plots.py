"""The plots of outcomes: rates by day and source with the comparison of generations, and drift by day."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter

from endcap_builders.evaluation.plots import OTHER, STUDENT, STYLE, TEACHER
from endcap_builders.outcomes.drift import MUCH
from endcap_builders.outcomes.trial import title_of

_DRIFT = {
    "psi": "Population stability index of scores",
    "unknown_products": "Share of unknown products in histories",
    "empty_keywords": "Share of generated placements without keywords",
}


def plot_outcomes(report: Mapping[str, Any], path: Path) -> Path:
    """Cart adds by day and generation, ratios of the comparison, cart adds by source."""
    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(1, 3, figsize=(15, 3.8), layout="constrained")
        _by_day(panels[0], report["days"])
        _ratios(panels[1], report["experiment"])
        sources = [row for row in report["sources"] if "low" in row["carts"]]
        names = [row["source"] or "(none)" for row in sources]
        _bars(panels[2], names, [row["carts"] for row in sources], "Cart adds per 100 placements, by source", scale=100)
        figure.suptitle(
            f"{report['counts']['pages']:,} answers of {report['ensemble']}: value and 95 % interval over shoppers",
            x=0.01, ha="left", fontweight="bold", fontsize=11,
        )  # fmt: skip
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
    return path


def plot_drift(days: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Each figure of drift by day, a line per generation."""
    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(1, len(_DRIFT), figsize=(15, 3.4), layout="constrained")
        for axes, (name, title) in zip(panels, _DRIFT.items(), strict=True):
            for generation in sorted({row["generation"] for row in days}):
                own = [row for row in days if row["generation"] == generation and name in row]
                _line(axes, [row["day"] for row in own], [row[name] for row in own], generation)
            axes.set_ylim(0, max([0.3 if name == "psi" else 0.05, *(1.1 * row[name] for row in days if name in row)]))
            axes.set_title(title)
        panels[0].axhline(MUCH, color=OTHER, ls="--", lw=1.2, label=f"{MUCH}: much has changed")
        panels[0].legend(fontsize=9)
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
    return path


def _by_day(axes: Axes, days: Sequence[Mapping[str, Any]]) -> None:
    for generation in sorted({row["generation"] for row in days}):
        own = sorted((row for row in days if row["generation"] == generation), key=lambda row: row["day"])
        _line(axes, [row["day"] for row in own], [100 * row["carts"]["value"] for row in own], generation)
        known = [row for row in own if "low" in row["carts"]]
        low, high = ([100 * row["carts"][end] for row in known] for end in ("low", "high"))
        axes.fill_between(_dates([row["day"] for row in known]), low, high, alpha=0.15, lw=0)
    axes.set_ylim(bottom=0)
    axes.set_title("Cart adds per 100 page views, by generation")
    axes.legend(fontsize=9)


def _line(axes: Axes, days: Sequence[str], values: Sequence[float], generation: int) -> None:
    axes.plot(_dates(days), values, marker="o", ms=3, label=f"generation {generation}")
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))


def _dates(days: Sequence[str]) -> np.ndarray:
    return np.array(days, "datetime64[D]")


def _ratios(axes: Axes, experiment: Mapping[str, Any] | None) -> None:
    axes.set_title("Treatment over control")
    if experiment is None:
        axes.text(0.5, 0.5, "no two generations at the same time", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    names, rows, colours = [], [], []
    for name, metric in experiment["metrics"].items():
        for how, colour in (("plain", OTHER), ("cuped", STUDENT)):
            if "ratio" in metric.get(how, {}):
                names.append(f"{title_of(name)}, {how.replace('cuped', 'CUPED')}")
                rows.append(metric[how]["ratio"])
                colours.append(colour)
    for place, (row, colour) in enumerate(zip(rows, colours, strict=True)):
        error = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
        axes.errorbar(row["value"], place, xerr=error, marker="o", capsize=3, color=colour)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(1, color=TEACHER, ls="--", lw=1.2)


def _bars(axes: Axes, names: Sequence[str], rows: Sequence[Mapping[str, float]], title: str, scale: float) -> None:
    values = [scale * row["value"] for row in rows]
    below = [scale * (row["value"] - row["low"]) for row in rows]
    above = [scale * (row["high"] - row["value"]) for row in rows]
    axes.barh(list(names), values, xerr=[below, above], color=STUDENT, height=0.6, capsize=3)
    axes.invert_yaxis()
    axes.set_title(title)
    axes.grid(False, axis="y")
