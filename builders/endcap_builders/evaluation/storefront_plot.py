"""The plot of an evaluation of storefronts: shares of purchases by page, and contributions of placements."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from endcap_builders.evaluation.plots import OTHER, STUDENT, STYLE, TEACHER

_NAMES = {"all": "all purchases", "new": "products new to the shopper"}


def plot_storefront(report: Mapping[str, Any], path: Path) -> Path:
    """Bars with intervals: shares by page, and by source of the placements."""
    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(1, 3, figsize=(15, 3.8), layout="constrained")
        for axes, share in zip(panels, _NAMES, strict=False):
            systems = {name: row[share] for name, row in report["systems"].items()}
            colours = [STUDENT if name == "page" else TEACHER if name == "base" else OTHER for name in systems]
            _bars(axes, systems, colours, f"Share of {_NAMES[share]}")
        sources = {name: row["all"] for name, row in report["sources"].items()}
        _bars(panels[2], sources, [STUDENT] * len(sources), "The page's share by source of the placements")
        figure.suptitle(
            f"{report['shoppers']['measured']} shoppers, purchases of {report['purchases']}: mean and 95 % interval",
            x=0.01, ha="left", fontweight="bold", fontsize=11,
        )  # fmt: skip
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
    return path


def _bars(axes: Axes, rows: Mapping[str, Mapping[str, float]], colours: list[str], title: str) -> None:
    rows = {name: row for name, row in rows.items() if "value" in row}
    values = [row["value"] for row in rows.values()]
    below = [row["value"] - row["low"] for row in rows.values()]
    above = [row["high"] - row["value"] for row in rows.values()]
    axes.barh(list(rows), values, xerr=[below, above], color=colours[: len(rows)], height=0.6, capsize=3)
    axes.invert_yaxis()
    axes.set_title(title)
    axes.grid(False, axis="y")
