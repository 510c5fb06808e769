"""Writes report.json and report.html; each is one file without external resources."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.plots import plots

JSON_FILE, HTML_FILE = "report.json", "report.html"
_TEMPLATE = "report.html.jinja"


def write_report(report: Mapping[str, Any], out: Path) -> tuple[Path, Path]:
    """Write both files into `out`; return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = out / JSON_FILE, out / HTML_FILE
    paths[0].write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    paths[1].write_text(render(report), encoding="utf-8")
    return paths


def render(report: Mapping[str, Any]) -> str:
    """The page of a report, without the parts that were not run."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent}
    sections = {
        name: report.get(name)
        for name in ("baseline", "load", "engines", "relevance", "profile", "memory", "comparison")
    }
    return environment.get_template(_TEMPLATE).render(**{**report, **sections}, plots=plots(report))


def number(value: float | None, digits: int = 1) -> str:
    """Format a figure with so many decimals; a dash for None."""
    return "–" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def percent(value: float | None, digits: int = 0) -> str:
    """Format a share as a percentage; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"
