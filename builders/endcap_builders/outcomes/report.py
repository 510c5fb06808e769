"""The report of outcomes: report.json, report.md and two plots."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from endcap_builders.evaluation.report import table_line
from endcap_builders.outcomes.figures import OUTCOMES
from endcap_builders.outcomes.plots import plot_drift, plot_outcomes
from endcap_builders.outcomes.trial import TITLES, title_of

_SHOWN = 20
"""Keywords and themes in the tables; report.json has all."""


def write_outcomes(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the report; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "report.json", folder / "report.md"]
    paths[0].write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    paths[1].write_text(markdown(report), encoding="utf-8")
    return [
        *paths,
        plot_outcomes(report, folder / "outcomes.png"),
        plot_drift(report["drift"]["days"], folder / "drift.png"),
    ]


def markdown(report: Mapping[str, Any]) -> str:
    """The tables with captions."""
    counts = report["counts"]
    attributed = "; ".join(
        f"{TITLES[kind]} {counts['attributed'][kind]:,} of {counts['events'][kind]:,}" for kind in OUTCOMES
    )
    lines = [
        f"{counts['pages']:,} answers of {report['ensemble']} to {counts['shoppers']:,} shoppers, {counts['first']} to "
        f"{counts['last']}. An event counts for the page that it names, else for the last page that showed the product "
        f"to the shopper within {report['window_hours']:g} hours before it. Attributed: {attributed}.",
        *(line for warning in report["warnings"] for line in ("", f"Warning: {warning}.")),
        "",
        "Per 100 page views, with 95 % intervals over shoppers:",
        "",
        *_rates([{"generation": "all", **report["total"][0]}, *report["generations"]], "generation", "page views"),
        "",
        *_experiment(report["experiment"]),
    ]
    for name, column, title in (
        ("sources", "source", "source"),
        ("positions", "position", "position on the page"),
        ("themes", "theme", "theme"),
        ("keywords", "keyword", "keyword"),
    ):
        rows = report[name]
        most = f" (the {_SHOWN} shown most of {len(rows):,})" if len(rows) > _SHOWN else ""
        lines += ["", f"Per 100 placements shown, by {title}{most}:", ""]
        lines += _rates(rows[:_SHOWN], column, "placements")
    return "\n".join([*lines, "", *_drift(report["drift"])]) + "\n"


def _rates(rows: Sequence[Mapping[str, Any]], column: str, views: str) -> list[str]:
    lines = [table_line([column, views, "shoppers", *TITLES.values()]), table_line(["---"] * (3 + len(TITLES)))]
    for row in rows:
        figures = [_per_hundred(row[name]) for name in OUTCOMES]
        lines.append(table_line([_cell(row[column]), f"{row['views']:,}", f"{row['shoppers']:,}", *figures]))
    return lines


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ") or "–"


def _per_hundred(figure: Mapping[str, float], sign: bool = False) -> str:
    form = "+.2f" if sign else ".2f"
    if "value" not in figure:
        return "–"
    if "low" not in figure:
        return f"{100 * figure['value']:{form}}"
    return f"{100 * figure['value']:{form}} [{100 * figure['low']:{form}}, {100 * figure['high']:{form}}]"


def _ratio(figure: Mapping[str, float] | None) -> str:
    return "–" if figure is None else f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _experiment(experiment: Mapping[str, Any] | None) -> list[str]:
    if experiment is None:
        return ["No comparison: no two generations served at least 30 shoppers each at the same time."]
    control, treatment = (experiment["arms"][arm] for arm in ("control", "treatment"))
    lines = [
        f"Generation {treatment['generation']} ({treatment['shoppers']:,} shoppers, {treatment['pages']:,} pages) "
        f"against generation {control['generation']} ({control['shoppers']:,} shoppers, {control['pages']:,} pages), "
        f"{experiment['start']} to {experiment['end']}, per 100 page views; `all` counts every event of a shopper, "
        "whatever was shown, per 100 shoppers. Intervals (95 %, over shoppers) of the difference and of "
        "the ratio, plain and with CUPED:",
        "",
    ]
    head = ["outcome", "control", "treatment", "difference", "ratio", "difference, CUPED", "ratio, CUPED", "narrower"]
    lines += [table_line(head), table_line(["---"] * len(head))]
    for name, row in experiment["metrics"].items():
        cells = [f"{100 * row[arm]:.2f}" for arm in ("control", "treatment")]
        for how in ("plain", "cuped"):
            found = row.get(how, {})
            cells += [_per_hundred(found.get("difference", {}), sign=True), _ratio(found.get("ratio"))]
        lines.append(table_line([title_of(name), *cells, f"{row['narrower']:.0%}" if "narrower" in row else "–"]))
    carts = experiment["metrics"]["carts"]
    if "detectable" in carts:
        lines += ["", f"A change of {carts['detectable']:.1%} in cart adds would be found with a power of 80 %."]
    return lines


def _drift(drift: Mapping[str, Any]) -> list[str]:
    lines = [
        "Drift by day: population stability index (PSI) of the scores against the reference, share of products of "
        "histories that the catalogue does not have, share of generated placements without keywords:",
        "",
        table_line(["day", "generation", "pages", "PSI", "unknown products", "empty keywords"]),
        table_line(["---"] * 6),
    ]
    for row in drift["days"]:
        psi = "reference" if row["is_reference"] else f"{row['psi']:.3f}" if "psi" in row else "–"
        shares = [f"{row[name]:.1%}" if name in row else "–" for name in ("unknown_products", "empty_keywords")]
        lines.append(table_line([row["day"], str(row["generation"]), f"{row['pages']:,}", psi, *shares]))
    return lines
