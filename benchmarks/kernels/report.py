"""Writes the results of a run: rows of a CSV as they are measured; plots and the table in docs/kernels.md from it."""

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from benchmarks.kernels.cases import COMPILED, ENDCAP, PLAIN
from benchmarks.kernels.limits import DeviceLimits
from benchmarks.kernels.run import Row

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def append_csv(path: Path, row: Row, machine: str, commit: str, limits: DeviceLimits) -> None:
    """Add a row and write it to the disk at once; each has machine, commit and limits, so that it can be read alone."""
    values = {"machine": machine, "commit": commit, **asdict(row), **asdict(limits)}
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(values))
        if not file.tell():
            writer.writeheader()
        writer.writerow(values)
        file.flush()
        os.fsync(file.fileno())


def read_csv(path: Path) -> tuple[str, list[Row]]:
    """The machine, and the rows of a CSV."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    kinds: dict[str, Any] = {field.name: field.type for field in fields(Row)}
    rows = [Row(**{name: kind(line[name]) for name, kind in kinds.items()}) for line in lines]
    return (lines[0]["machine"] if lines else ""), rows


def best_launch(rows: Sequence[Row]) -> dict[str, Row]:
    """For each implementation of one case, the faster launch mode."""
    best: dict[str, Row] = {}
    for row in rows:
        if not math.isnan(row.p50_us) and (
            row.implementation not in best or row.p50_us < best[row.implementation].p50_us
        ):
            best[row.implementation] = row
    return best


def by_case(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows of each (kernel, size), in order."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.kernel, row.size), []).append(row)
    return groups


def markdown_table(rows: Sequence[Row]) -> str:
    """One line per case: our time, the ratios to the others (each in its faster launch mode), share of the limit."""
    lines = [
        "| kernel | size | p50 | launched | torch | torch.compile | best other | share of limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (kernel, size), group in by_case(rows).items():
        best = best_launch(group)
        if ENDCAP not in best:
            continue
        ours = best[ENDCAP]
        others = {name: row for name, row in best.items() if name not in (ENDCAP, PLAIN, COMPILED) and not row.note}

        def ratio(row: Row | None, ours: Row = ours) -> str:
            return f"{row.p50_us / ours.p50_us:.1f}x" if row else "-"

        name, row = min(others.items(), key=lambda item: item[1].p50_us, default=("", None))
        other = f"{name} {ratio(row)}" if row else "-"
        share = f"{100 * ours.share:.0f} % of {ours.limit}" if ours.floor_us else "-"
        lines.append(
            f"| `{kernel}` | {size} | {ours.p50_us:.1f} us | {ours.launch} | {ratio(best.get(PLAIN))} "
            f"| {ratio(best.get(COMPILED))} | {other} | {share} |"
        )
    return "\n".join(lines)


def update_document(path: Path, text: str) -> None:
    """Replace the text between the marks of a document; raises ValueError if it has no marks."""
    document = path.read_text(encoding="utf-8")
    begin, end = document.find(BEGIN), document.find(END)
    if not 0 <= begin < end:
        raise ValueError(f"{path}: expected the marks {BEGIN} and {END}, found none")
    path.write_text(f"{document[:begin]}{BEGIN}\n{text}\n{document[end:]}", encoding="utf-8")


def plot(folder: Path, rows: Sequence[Row]) -> list[Path]:
    """One plot per kernel: times of all implementations by size, and the limit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kernel in dict.fromkeys(row.kernel for row in rows):
        own = [row for row in rows if row.kernel == kernel]
        figure, axes = pyplot.subplots(figsize=(7, 4.5))
        for name in dict.fromkeys(row.implementation for row in own):
            points = sorted(
                (best[name].scale, best[name].p50_us)
                for (_, _), group in by_case(own).items()
                if name in (best := best_launch(group))
            )
            axes.plot(*zip(*points, strict=True), marker="o", label=name) if points else None
        floor = sorted({(row.scale, row.floor_us) for row in own if row.floor_us})
        if floor:
            axes.plot(*zip(*floor, strict=True), color="grey", linestyle=":", label="limit of the GPU")
        axes.set(xscale="log", yscale="log", xlabel="size", ylabel="microseconds (p50)", title=kernel)
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
        path = folder / f"{kernel}.png"
        figure.savefig(path, dpi=110, bbox_inches="tight")
        pyplot.close(figure)
        paths.append(path)
    return paths
