"""The report of an evaluation of storefronts: report.json, report.md and a plot."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from endcap_builders.evaluation.report import interval_text, table_line
from endcap_builders.evaluation.storefront_figures import AGAINST
from endcap_builders.evaluation.storefront_plot import plot_storefront


def write_storefront(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the report; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "report.json", folder / "report.md"]
    paths[0].write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    paths[1].write_text(markdown(report), encoding="utf-8")
    return [*paths, plot_storefront(report, folder / "shares.png")]


def markdown(report: Mapping[str, Any]) -> str:
    """The tables with captions."""
    shoppers, titles, new = report["shoppers"], report["titles"], report["new_shoppers"]
    frequent = f'"{titles["most_frequent"]}" stands on {titles["most_frequent_share"]:.0%} of the pages'
    lines = [
        f"Shares of the products bought next ({report['purchases']}) that a page shows: mean and 95 % bootstrap "
        f"interval over {shoppers['measured']} of {shoppers['eligible']} shoppers.",
        "",
        *_systems(report),
        "",
        f"Compared with {AGAINST}, shopper by shopper:",
        "",
        *_compared(report),
        "",
        "What the placements of each source and position contribute:",
        "",
        *_contributions(report),
        "",
        f"Titles: {titles['distinct']:,} distinct of {titles['shown']:,} shown ({titles['distinct_share']:.0%}); "
        f"{frequent}.",
        "",
        *_new(new),
        "",
        *_latency(report),
    ]
    return "\n".join(lines) + "\n"


def _systems(report: Mapping[str, Any]) -> list[str]:
    rows = [table_line(["page", "all", "new to the shopper", "products", "coverage", "Gini"]), table_line(["---"] * 6)]
    for name, row in report["systems"].items():
        shown = [f"{row['products']:.1f}", f"{row['coverage']:.4f}", f"{row['gini']:.3f}"]
        rows.append(table_line([name, interval_text(row["all"]), interval_text(row["new"]), *shown]))
    return rows


def _compared(report: Mapping[str, Any]) -> list[str]:
    head = ["page", "all, minus", "all, over", "new, minus", "new, over"]
    rows = [table_line(head), table_line(["---"] * len(head))]
    over = report["over"][AGAINST]
    for name, row in report["minus"][AGAINST].items():
        cells = [(interval_text(row[each], sign=True), interval_text(over[name][each])) for each in ("all", "new")]
        rows.append(table_line([name, *cells[0], *cells[1]]))
    return rows


def _contributions(report: Mapping[str, Any]) -> list[str]:
    head = ["placements", "count", "share", "products bought", "new ones bought", "all", "new to the shopper"]
    rows = [table_line(head), table_line(["---"] * len(head))]
    for kind in ("sources", "positions"):
        for name, row in report[kind].items():
            cells = [f"{row['placements']:,}", *(f"{row[each]:.1%}" for each in ("share", "hits", "new_hits"))]
            shown = [interval_text(row["all"]), interval_text(row["new"])]
            rows.append(table_line([name if kind == "sources" else f"position {name}", *cells, *shown]))
    return rows


def _new(new: Mapping[str, Any]) -> list[str]:
    if not new["shoppers"]:
        return ["Nobody bought enough after the cut who had done nothing before it."]
    figures = "; ".join(f"{name} {interval_text(row['all'])}" for name, row in new["systems"].items())
    return [f"{new['shoppers']} new shoppers: {figures}."]


def _latency(report: Mapping[str, Any]) -> list[str]:
    machine, found = report["machine"], report["latency"]
    own = found["page"]
    lines = [
        f"Latency, one request at a time ({machine['processor']}, {machine['cores']} cores, load "
        f"{machine['load_average'][0]}): p50 {own['p50_ms']} ms, p95 {own['p95_ms']} ms."
    ]
    if "base" in found:
        base = found["base"]
        lines.append(
            f"Of the base, in turns: p50 {base['p50_ms']} ms, p95 {base['p95_ms']} ms; page over base "
            f"{interval_text(found['p50_ratio'])} and {interval_text(found['p95_ratio'])}."
        )
    return lines
