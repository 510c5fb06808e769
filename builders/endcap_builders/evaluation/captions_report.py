"""The report of `endcap evaluate captions`: report.json, report.md and a plot."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import pyplot

from endcap_builders.evaluation.plots import OTHER, STUDENT, STYLE, TEACHER
from endcap_builders.evaluation.report import table_line

_NAMES = {"auc": "AUC", "entropy": "normalised entropy", "ndcg": "nDCG@10"}
_PARTS = {"all": "all", "warm": "sold before", "cold": "cold"}


def write_captions(report: Mapping[str, Any], folder: Path) -> None:
    """Write the report."""
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(markdown(report), encoding="utf-8")
    _plot(report, folder / "auc.png")


def markdown(report: Mapping[str, Any]) -> str:
    """The tables."""
    on = "{processor}, {cores} cores".format(**report["machine"])
    bought, tokens = report["bought"], report["tokens"]
    head = ["system", *(f"{_NAMES[name]}, {_PARTS[part]}" for part in ("all", "cold") for name in _NAMES), "seconds"]
    lines = [
        f"{report['visits']['judged']:,} visits of {report['shoppers']:,} shoppers ({report['on']} period); predicted: "
        f"{report['next']}; {bought['all']:,} products bought, {bought['cold']:,} of them cold; "
        f"{report['seeds']} seeds; {tokens['distinct']:,} tokens, {tokens['per_product']} a product, "
        f"from {tokens['from']}; {on}.",
        "",
        table_line(head),
        table_line(["---"] * len(head)),
    ]
    for name, parts in report["values"].items():
        cells = [
            f"{parts[part][measure]:.4f}" if part in parts else "" for part in ("all", "cold") for measure in _NAMES
        ]
        lines.append(table_line([name, *cells, str(report["seconds"].get(name, ""))]))
    head = ["relative change", "products", *_NAMES.values()]
    lines += ["", table_line(head), table_line(["---"] * len(head))]
    for name, parts in report["over"].items():
        for part, row in parts.items():
            lines.append(table_line([name, _PARTS[part], *(_percent(row[measure]) for measure in _NAMES)]))
    return "\n".join(lines) + "\n"


def _percent(row: Mapping[str, float]) -> str:
    return f"{row['value']:+.2%} [{row['low']:+.2%}, {row['high']:+.2%}]"


def _plot(report: Mapping[str, Any], path: Path) -> None:
    """Relative change of the AUC by pair of systems, with intervals."""
    pairs = list(report["over"].items())
    if not pairs:
        return
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(8, 0.6 * len(pairs) + 1.4), layout="constrained")
        for shift, (part, colour) in enumerate((("all", STUDENT), ("warm", OTHER), ("cold", TEACHER))):
            rows = [(place, parts[part]["auc"]) for place, (_, parts) in enumerate(pairs) if part in parts]
            at = [place + (shift - 1) * 0.2 for place, _ in rows]
            value = [row["value"] * 100 for _, row in rows]
            low, high = ([abs(row["value"] - row[end]) * 100 for _, row in rows] for end in ("low", "high"))
            axes.errorbar(value, at, xerr=[low, high], fmt="o", ms=4, color=colour, label=_PARTS[part])
        axes.axvline(0, color="black", lw=0.8)
        axes.set_yticks(range(len(pairs)), [name for name, _ in pairs])
        axes.invert_yaxis()
        axes.set_xlabel("relative change of the AUC, percent; 95 % interval over shoppers and seeds")
        axes.legend(fontsize=9)
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
