"""Quality gates: comparisons of trained models with simple baselines on held-out data."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from endcap_server.shop.gates import GATES_FILE
from rich.table import Table

from endcap_builders.intervals import bootstrap


@dataclass(frozen=True)
class Gate:
    """One comparison; larger is better.

    Attributes:
        model: the build step that trained it.
        measure: description of the measure and the data.
        value: the model's figure.
        interval: its 95 % interval over the held-out queries, pages or shoppers.
        baseline_name: the baseline.
        baseline_value: its figure on the same data.
        serves: whether the baseline can serve instead of the model. If not, it is only compared.
    """

    model: str
    measure: str
    value: float
    interval: tuple[float, float]
    baseline_name: str
    baseline_value: float
    serves: bool = True

    @property
    def better(self) -> bool:
        """Whether the model is better; a missing figure is not better."""
        return self.value > self.baseline_value

    @classmethod
    def of(
        cls, model: str, measure: str, values: Any, baseline_name: str, baseline: Any, *, serves: bool = True
    ) -> "Gate":
        """Compare on the cases for which both have a figure.

        Args:
            model: the build step that trained it.
            measure: description of the measure.
            values: the model's figure of each case, float [n], NaN if it has none.
            baseline_name: the baseline.
            baseline: its figures for the same cases.
            serves: see `Gate`.
        """
        mine, other = np.asarray(values, float), np.asarray(baseline, float)
        known = ~(np.isnan(mine) | np.isnan(other))
        if not known.any():
            return cls(model, f"{measure} (no held-out case)", 0.0, (0.0, 0.0), baseline_name, 0.0, serves)
        mine, other = mine[known], other[known]
        found = bootstrap(lambda rows: mine[rows].mean(axis=1), len(mine), seed=0)
        low, high = round(found.low, 4), round(found.high, 4)
        return cls(
            model, measure, round(found.value, 4), (low, high), baseline_name, round(float(other.mean()), 4), serves
        )


def write_gates(folder: Path, gates: Iterable[Gate]) -> None:
    """Write the comparisons of a step to its output; the step `gates` decides by them."""
    text = json.dumps([asdict(gate) for gate in gates], indent=1)
    (folder / GATES_FILE).write_text(text + "\n", encoding="utf-8")


def read_gates(folder: Path) -> list[Gate]:
    """Read the comparisons of a step; none if it had no model to compare."""
    path = folder / GATES_FILE
    if not path.exists():
        return []
    return [gate_of(row) for row in json.loads(path.read_text(encoding="utf-8"))]


def gate_of(row: Mapping[str, Any]) -> Gate:
    """A gate from its JSON document."""
    low, high = row["interval"]
    return Gate(**{**row, "interval": (float(low), float(high))})


def lost(gates: Sequence[Gate]) -> list[Gate]:
    """Comparisons that the model lost to baselines that can serve, the best baseline first."""
    return sorted((gate for gate in gates if gate.serves and not gate.better), key=lambda gate: -gate.baseline_value)


def gate_figures(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The entries of the step `gates` in a manifest, by model."""
    models: dict[str, dict[str, Any]] = manifest["steps"].get("gates", {}).get("figures", {}).get("models", {})
    return models


def gates_table(models: Mapping[str, Mapping[str, Any]], kept: Mapping[str, str]) -> Table:
    """The table at the end of a build.

    Args:
        models: model -> its entry of the step `gates` in the manifest.
        kept: models that a refresh has kept -> when each was built.
    """
    table = Table(title="Models beside the simplest thing that could do their job", title_justify="left")
    if told := [f"{name} ({built[:10]})" for name, built in kept.items() if name in models]:
        table.caption = f"Kept by a refresh; measured when they were built, not on this catalogue: {', '.join(told)}"
        table.caption_justify = "left"
    for column in ("model", "measure", "model's figure", "simple thing", "its figure", "installed"):
        table.add_column(column, overflow="fold")
    for name, entry in models.items():
        for gate in map(gate_of, entry["gates"]):
            low, high = gate.interval
            within = " (within the noise)" if low <= gate.baseline_value <= high else ""
            if not gate.serves:
                verdict = "better" if gate.better else "[red]worse[/red]"
            elif not entry["installed"]:
                verdict = f"[red]no: {entry['serves']}[/red]"
            else:
                verdict = "yes" if gate.better else "[red]yes, though worse[/red]"
            figure, simple = f"{gate.value:.3f} [{low:.3f}, {high:.3f}]", f"{gate.baseline_value:.3f}"
            table.add_row(name, gate.measure, figure.replace("[", r"\["), gate.baseline_name, simple, verdict + within)
    return table


def failures(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One sentence for each comparison that a model lost, for `--strict`."""
    return [
        f"{name}: {gate.measure} {gate.value:.3f}, {gate.baseline_name} {gate.baseline_value:.3f}"
        for name, entry in models.items()
        for gate in map(gate_of, entry["gates"])
        if not gate.better
    ]
