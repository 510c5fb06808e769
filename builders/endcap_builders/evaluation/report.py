"""The report of an evaluation: report.json, report.md, and two plots."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from endcap_builders.evaluation.metrics import NAMES
from endcap_builders.evaluation.plots import plot_cost, plot_curve


def write_report(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the report; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "report.json", folder / "report.md"]
    paths[0].write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    paths[1].write_text(markdown(report), encoding="utf-8")
    return [*paths, plot_curve(report, folder / "curve.png"), plot_cost(report, folder / "cost.png")]


def write_built(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the report on a build's own models; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "built.json", folder / "built.md"]
    paths[0].write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    lines = [*_tables(report), *_served(report.get("served"))]
    paths[1].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


def markdown(report: Mapping[str, Any]) -> str:
    """The tables with captions."""
    lines = [
        *_tables(report),
        "",
        "Students by cost (seed {seed}, {pairs} pairs scored by the serving engine in turns):".format(
            **report["layers"]
        ),
        "",
        *_cost(report),
    ]
    return "\n".join(lines) + "\n"


def _tables(report: Mapping[str, Any]) -> list[str]:
    asked = report["queries"]
    return [
        f"{asked['queries']:,} queries with {asked['pairs']:,} judged products ({asked['source']}); whole corpus: "
        f"{asked['whole_corpus_queries']} queries. Mean and 95 % bootstrap interval over queries.",
        "",
        *_quality(report),
        *(line for other in _compared(report) for line in _differences(report, other)),
    ]


def _served(served: Mapping[str, Any] | None) -> list[str]:
    """Latency of the searches, if a server was used."""
    if served is None:
        return []
    on = "{processor}, {cores} cores".format(**served["machine"])
    return [
        "",
        f"Searches, one at a time ({on}): p50 {served['p50_ms']} ms, p95 {served['p95_ms']} ms; of "
        f"{served['degraded']} a part fell back. Products of a search to score (median): {served['pairs']:g}.",
    ]


def interval_text(figure: Mapping[str, Any], sign: bool = False) -> str:
    """A figure with its interval; a dash without a figure."""
    if "value" not in figure:
        return "–"
    form = "+.4f" if sign else ".4f"
    return f"{figure['value']:{form}} [{figure['low']:{form}}, {figure['high']:{form}}]"


def _quality(report: Mapping[str, Any]) -> list[str]:
    names = [name for name in NAMES if any(name in row["figures"] for row in report["systems"].values())]
    rows = [table_line(["system", "seeds", *(NAMES[name] for name in names)]), table_line(["---"] * (2 + len(names)))]
    for system, row in report["systems"].items():
        figures = [interval_text(row["figures"].get(name, {})) for name in names]
        rows.append(table_line([system, str(len(row["seeds"]) or "–"), *figures]))
    return rows


def _compared(report: Mapping[str, Any]) -> list[str]:
    """The systems with which others are compared."""
    return list(dict.fromkeys(other for row in report["systems"].values() for other in row["minus"]))


def _differences(report: Mapping[str, Any], other: str) -> list[str]:
    names = [name for name in NAMES if name in report["systems"][other]["figures"]]
    title = f"Difference to {other} on the same queries and seeds, and its 95 % interval:"
    rows = [
        "",
        title,
        "",
        table_line(["system", *(NAMES[name] for name in names)]),
        table_line(["---"] * (1 + len(names))),
    ]
    for system, row in report["systems"].items():
        if other in row["minus"]:
            figures = row["minus"][other]
            rows.append(table_line([system, *(interval_text(figures.get(name, {}), sign=True) for name in names)]))
    return rows


def _cost(report: Mapping[str, Any]) -> list[str]:
    rows = [
        table_line(["student", "pairs/s", "times the full one's", "nDCG@10", "share of the full one's"]),
        table_line(["---"] * 5),
    ]
    for name, row in report["layers"]["rows"].items():
        share, ratio = row["ndcg_share"], row["ratio"]
        rows.append(
            table_line([name, f"{row['pairs_per_s']:.0f}", _short(ratio, 2), f"{row['ndcg']:.4f}", _short(share, 3)])
        )
    return rows


def _short(figure: Mapping[str, float], digits: int) -> str:
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def table_line(cells: list[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"
