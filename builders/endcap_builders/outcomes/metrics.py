"""Drift as metrics, in a file for the textfile collector of Prometheus' node_exporter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from endcap_server.serving.metrics import Metric

_LABELS = ("ensemble", "generation")
GAUGES = {
    "psi": Metric(
        "endcap_drift_score_psi",
        "population stability index of the scores of the last day against the reference",
        _LABELS,
        is_gauge=True,
    ),
    "unknown_products": Metric(
        "endcap_drift_unknown_products",
        "share of unknown products in the histories of the last day",
        _LABELS,
        is_gauge=True,
    ),
    "empty_keywords": Metric(
        "endcap_drift_empty_keywords",
        "share of the generated placements of the last day without keywords",
        _LABELS,
        is_gauge=True,
    ),
}
"""Metrics by the name of the figure in the report."""


def write_metrics(report: Mapping[str, Any], path: Path) -> None:
    """Write the drift of the last day. The file is replaced whole, as the collector may read it at any time."""
    days = report["drift"]["days"]
    last = max(row["day"] for row in days)
    lines = []
    for figure, metric in GAUGES.items():
        lines += [f"# HELP {metric.name} {metric.meaning}", f"# TYPE {metric.name} gauge"]
        for row in days:
            if row["day"] == last and figure in row:
                labels = f'ensemble="{report["ensemble"]}",generation="{row["generation"]}"'
                lines.append(f"{metric.name}{{{labels}}} {row[figure]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text("\n".join(lines) + "\n", encoding="utf-8")
    new.replace(path)
