"""The two plots of an evaluation: quality by augmented data, quality by pairs a second."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

from endcap_builders.evaluation.metrics import NAMES

STUDENT, TEACHER, OTHER = "#2f7fd6", "#c9762b", "#7a7a7a"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}


def plot_curve(report: Mapping[str, Any], path: Path) -> Path:
    """Quality by amount of augmented data, with the teacher's line."""
    systems, multiples = report["systems"], sorted(report["settings"]["evaluate"]["multiples"])
    labelled = report["settings"]["evaluate"]["labelled_pairs"]
    names = [name for name in ("ndcg", "accuracy", "corpus_ndcg") if name in systems["teacher"]["figures"]]
    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(1, len(names), figsize=(5 * len(names), 3.8), layout="constrained")
        for axes, name in zip(panels, names, strict=True):
            rows = [systems[f"student x{multiple}"]["figures"][name] for multiple in multiples]
            places = range(len(multiples))
            values = [row["value"] for row in rows]
            axes.fill_between(
                places, [row["low"] for row in rows], [row["high"] for row in rows], color=STUDENT, alpha=0.15, lw=0
            )
            axes.plot(places, values, marker="o", color=STUDENT, label="student")
            teacher = systems["teacher"]["figures"][name]
            axes.axhline(teacher["value"], color=TEACHER, label="teacher")
            axes.axhspan(teacher["low"], teacher["high"], color=TEACHER, alpha=0.12, lw=0)
            for other, style in (("BM25", ":"), ("bi-encoder", "--")):
                axes.axhline(systems[other]["figures"][name]["value"], color=OTHER, ls=style, lw=1.2, label=other)
            axes.set_xticks(list(places), [f"{multiple}x" for multiple in multiples])
            axes.set(xlabel=f"mined pairs for each of {labelled:,} labelled ones", title=NAMES[name])
        panels[0].legend(fontsize=9)
        asked = report["queries"]
        figure.suptitle(
            f"Quality by augmented data: {asked['queries']:,} unseen queries, mean and 95 % interval over queries",
            x=0.01, ha="left", fontweight="bold", fontsize=11,
        )  # fmt: skip
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
    return path


def plot_cost(report: Mapping[str, Any], path: Path) -> Path:
    """Quality by pairs a second of the students with fewer layers."""
    rows = report["layers"]["rows"]
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
        speeds = [row["ratio"]["value"] for row in rows.values()]
        shares = [100 * row["ndcg_share"]["value"] for row in rows.values()]
        below = [100 * (row["ndcg_share"]["value"] - row["ndcg_share"]["low"]) for row in rows.values()]
        above = [100 * (row["ndcg_share"]["high"] - row["ndcg_share"]["value"]) for row in rows.values()]
        axes.errorbar(speeds, shares, yerr=[below, above], marker="o", color=STUDENT, capsize=3, label="student")
        for (name, row), speed, share in zip(rows.items(), speeds, shares, strict=True):
            text = f"{name}\n{row['pairs_per_s']:.0f} pairs/s"
            axes.annotate(text, (speed, share), (6, 6), textcoords="offset points", fontsize=9)
        axes.axhline(98, color=TEACHER, ls="--", lw=1.2, label="98 % of the full student")
        axes.axvline(1.7, color=OTHER, ls=":", lw=1.2, label="1.7 times its pairs/s")
        axes.set(
            xlabel="pairs a second, times those of the full student (serving engine)",
            ylabel="nDCG@10, % of the full student's",
            xlim=(0.8, max(speeds) * 1.25),
            ylim=(min(97.8, *(share - down for share, down in zip(shares, below, strict=True))) - 0.1, None),
            title="Quality by cost: fewer layers, mean and 95 % interval over queries",
        )
        axes.margins(y=0.15)
        axes.set_ylim(top=max(map(sum, zip(shares, above, strict=True))) + 0.35)
        axes.legend(fontsize=9, loc="lower left")
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
    return path
