"""The report of `endcap evaluate quality`: report.json, report.md and plots."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import pyplot

from endcap_builders.evaluation.plots import OTHER, STUDENT, STYLE, TEACHER
from endcap_builders.evaluation.report import table_line

_COLOURS = (STUDENT, OTHER, "#3a9a5b", TEACHER)


def write_quality(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the report; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "report.json", folder / "report.md"]
    paths[0].write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    paths[1].write_text(markdown(report), encoding="utf-8")
    if "products" in report:
        paths.append(_plot_products(report["products"], folder / "products.png"))
    if "titles" in report:
        paths.append(_plot_titles(report["titles"], folder / "titles.png"))
    return paths


def markdown(report: Mapping[str, Any]) -> str:
    """The tables with captions."""
    sections = [_TABLES[name](report[name]) for name in _TABLES if name in report]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def rate_text(rate: Mapping[str, Any]) -> str:
    """A share with its interval, in percent; a dash without cases."""
    if "value" not in rate:
        return "–"
    return f"{rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"


def _products(found: Mapping[str, Any]) -> list[str]:
    asked = found["asked"]
    lines = [
        f"## Products\n\n{found['source']}: {found['queries']:,} queries, {found['fits']:,} products that fit, "
        f"{found['misfits']:,} misfits, {found['between']:,} between. Served: {found['serves']}. 95 % intervals over "
        "queries.",
        "",
        f"The floor that drops at most {asked['most_false_drops']:.0%} of what fits, chosen on four fifths of the "
        "queries and measured on the others:",
        "",
        *_head("score", "floor", "false drops", "misfits found", "reached"),
    ]
    for name, row in found["scores"].items():
        point, reached = row["point"], row["reached"]
        floor = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**point["floor"])
        missed = [each.replace("_", " ") for each, met in reached.items() if not met]
        rates = (rate_text(point[each]) for each in ("false_drops", "misfits_found"))
        lines.append(table_line([name, floor, *rates, f"no: {', '.join(missed)}" if missed else "yes"]))
    lines += ["", "The floors that serve:", "", *_head("score", "floor", "false drops", "misfits found")]
    for name, row in found["scores"].items():
        if "served" in row:
            rates = (rate_text(row["served"][each]) for each in ("false_drops", "misfits_found"))
            lines.append(table_line([name, f"{row['served']['floor']:g}", *rates]))
    return lines


def _titles(found: Mapping[str, Any]) -> list[str]:
    lines = ["## Titles", "", "95 % intervals (Wilson).", "", *_head("good titles", "refused", "of", "checks")]
    lines += [_checked(name, row) for name, row in found["refused"].items()]
    lines += ["", *_head("fault", "found", "of", "checks", "not found, for example")]
    for name, row in found["found"].items():
        lines.append(_checked(name, row) + f" {_examples(row)} |")
        for detail, rate in row.get("by_detail", {}).items():
            lines.append(table_line([f"– {detail}", rate_text(rate), str(rate["cases"]), "", ""]))
    refused = [f"* {name}: {_examples(row)}" for name, row in found["refused"].items() if row["examples"]]
    return [*lines, "", "Good titles that were refused, for example:", "", *refused] if refused else lines


def _checked(name: str, row: Mapping[str, Any]) -> str:
    checks = ", ".join(f"{check} {count}" for check, count in row["checks"].items())
    return table_line([name, rate_text(row), str(row["cases"]), checks])


def _examples(row: Mapping[str, Any]) -> str:
    return ", ".join(
        f'"{each["title"]}"' + (f" ({each['check']})" if each["check"] else "") for each in row["examples"]
    )


def _placements(found: Mapping[str, Any]) -> list[str]:
    point, planted = found["point"], found["planted"]
    lines = [
        f"## Placements\n\n{found['placements']} good placements. Served: {found['serves']}, floor {found['floor']:g}. "
        "95 % intervals over placements.",
        "",
        *_head("products", "refused", "by the score alone"),
        table_line(["good", rate_text(found["false_drops"]), ""]),
    ]
    for name, row in planted.items():
        lines.append(table_line([f"planted, of {name}", rate_text(row["found"]), rate_text(row["by_score"])]))
    lines += ["", *_head("placements", "refused")]
    lines += [table_line(["good", rate_text(found["refused"])])]
    lines += [table_line(["with the products of another one", rate_text(found["swapped"])])]
    lines += [
        "",
        f"{rate_text(found['belonging'])} of the good products fit by their kind or category, whatever their score. By "
        "the score alone, the floor {value:.3f} [{low:.3f}, {high:.3f}] ".format(**point["floor"])
        + f"drops {rate_text(point['false_drops'])} of them and finds {rate_text(point['misfits_found'])} of the "
        "misfits (on other placements than those that chose it).",
    ]
    missed = [f'"{each["theme"]}": {each["product"]}' for row in planted.values() for each in row["missed"]]
    return [*lines, "", "Misfits that were not found, for example:", "", *(f"* {text}" for text in missed)]


def _pages(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"## Pages\n\n{found['pages']} pages; judge: {found['judge']}, cost {found['cost']:.2f}. P-T@5: share of the "
        "first five products of a placement that fit its title. 95 % intervals over placements.",
        "",
        *_head("placements", "count", "judge alone", "people alone", "both (prediction-powered)", "labels"),
    ]
    for name, row in found["p_t_5"].items():
        rates = (rate_text(row.get(each, {})) for each in ("judge", "people", "both"))
        lines.append(table_line([name, str(row["placements"]), *rates, str(row.get("labelled", 0))]))
    lines += ["", *_head("pages", "placements", "beside")]
    cohesion, diversity = found["cohesion"], found["diversity"]
    lines.append(table_line(["cohesion", *(_figure(cohesion[each]) for each in ("placements", "whole page"))]))
    lines.append(table_line(["diversity", *(_figure(diversity[each]) for each in ("placements", "distinct products"))]))
    lines += ["", *_head("targets of rules met", *found["targets"])]
    for target in next(iter(found["targets"].values())):
        lines.append(table_line([target, *(rate_text(row[target]) for row in found["targets"].values())]))
    return lines


def _figure(row: Mapping[str, Any]) -> str:
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**row) if "value" in row else "–"


_TABLES = {"products": _products, "titles": _titles, "placements": _placements, "pages": _pages}


def _head(*names: str) -> list[str]:
    return [table_line(list(names)), table_line(["---"] * len(names))]


def _plot_products(found: Mapping[str, Any], path: Path) -> Path:
    """Misfits found by false drops, with the served floors."""
    asked = found["asked"]
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(6.4, 4.4), layout="constrained")
        for (name, row), colour in zip(found["scores"].items(), _COLOURS, strict=False):
            curve = row["curve"]
            x, y = ([100 * each[key] for each in curve] for key in ("false_drops", "misfits_found"))
            axes.plot(x, y, color=colour, label=name)
            point = {key: row["point"][key] for key in ("false_drops", "misfits_found")}
            _cross(axes, point, colour, "o")
            if "served" in row:
                _cross(axes, row["served"], colour, "s")
        axes.plot([0, 50], [0, 50], color=OTHER, lw=0.8, ls=":", label="chance")
        axes.axvline(100 * asked["most_false_drops"], color="black", lw=0.8, ls="--")
        axes.axhline(100 * asked["least_found"], color="black", lw=0.8, ls="--", label="asked for")
        axes.set(
            xlim=(0, 50), ylim=(0, 100), xlabel="false drops, % of what fits", ylabel="misfits found, %",
            title=f"Product check, {found['queries']:,} unseen queries\n(circle: chosen floor, square: served floor)",
        )  # fmt: skip
        axes.legend(fontsize=9, loc="lower right")
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
    return path


def _plot_titles(found: Mapping[str, Any], path: Path) -> Path:
    """Bars with intervals: good titles refused, faults found."""
    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(
            2, 1, figsize=(7, 5.2), layout="constrained", height_ratios=[len(found["refused"]), len(found["found"])]
        )
        for axes, part, colour, title in (
            (panels[0], "refused", TEACHER, "Good titles refused, %"),
            (panels[1], "found", STUDENT, "Faults found, %"),
        ):
            rows = {name: row for name, row in found[part].items() if "value" in row}
            values = [100 * row["value"] for row in rows.values()]
            errors = [[100 * abs(row["value"] - row[end]) for row in rows.values()] for end in ("low", "high")]
            names = [f"{name} ({row['cases']})" for name, row in rows.items()]
            axes.barh(names, values, xerr=errors, color=colour, height=0.6, capsize=3)
            axes.invert_yaxis()
            axes.set(xlim=(0, 100), title=title)
            axes.grid(False, axis="y")
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
    return path


def _cross(axes: Any, rates: Mapping[str, Any], colour: str, marker: str) -> None:
    x, y = rates["false_drops"], rates["misfits_found"]
    errors = [[[100 * abs(each["value"] - each[end])] for end in ("low", "high")] for each in (x, y)]
    axes.errorbar(
        100 * x["value"], 100 * y["value"], xerr=errors[0], yerr=errors[1], color=colour, fmt=marker, ms=5, lw=1
    )
