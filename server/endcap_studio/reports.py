"""Reports that `endcap evaluate` has written into a build, as tables of their main figures."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FILES = ("report.json", "built.json")
_FIGURES = {
    "all": "purchases found",
    "new": "new purchases found",
    "ndcg": "nDCG",
    "corpus_ndcg": "nDCG, whole corpus",
    "corpus_recall": "recall, whole corpus",
}
"""Figures that are shown, and what they are called."""


@dataclass(frozen=True)
class Report:
    """One report.

    Attributes:
        name: Its folder.
        created: When it was written.
        figures: Names of the columns.
        rows: System and a text for each figure: value and 95 % interval.
    """

    name: str
    created: str
    figures: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def read_reports(build: Path) -> list[Report]:
    """The reports of a build, the latest first; what cannot be read is left out."""
    folders = sorted((build / "evaluation").glob("*"))
    found = [report for folder in folders for report in _read(folder)]
    return sorted(found, key=lambda report: report.created, reverse=True)


def _read(folder: Path) -> Iterator[Report]:
    for name in _FILES:
        try:
            document = json.loads((folder / name).read_text(encoding="utf-8"))
            systems = {
                system: {key: value for key, value in (each.get("figures") or each).items() if key in _FIGURES}
                for system, each in document["systems"].items()
            }
            created = str(document["created"])
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            continue
        names = [key for key in _FIGURES if any(key in figures for figures in systems.values())]
        rows = tuple((system, tuple(_text(each.get(key)) for key in names)) for system, each in systems.items())
        if names:
            yield Report(folder.name, created, tuple(_FIGURES[key] for key in names), rows)


def _text(figure: Mapping[str, Any] | None) -> str:
    if not isinstance(figure, Mapping) or not isinstance(figure.get("value"), int | float):
        return ""
    text = f"{figure['value']:.3f}"
    return f"{text} [{figure['low']:.3f}, {figure['high']:.3f}]" if "low" in figure and "high" in figure else text
