"""Quality gates: a trained model beside the simplest thing that could do its job, on data that it has not seen."""

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
        measure: what was measured, and on what, in words.
        value: the model's figure, and its 95 % interval.
        interval: over the held-out queries, pages or shoppers.
        baseline_name: the simple thing.
        baseline_value: its figure on the same data.
        serves: whether the simple thing can serve in the model's place. One that cannot is compared only.
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
        """Whether the model does better; no figure is not better."""
        return self.value > self.baseline_value

    @classmethod
    def of(
        cls, model: str, measure: str, values: Any, baseline_name: str, baseline: Any, *, serves: bool = True
    ) -> "Gate":
        """Compare on the cases that both have a figure of.

        Args:
            model: the build step that trained it.
            measure: what was measured.
            values: the model's figure of each case, float [n], NaN where there is none.
            baseline_name: the simple thing.
            baseline: its figures of the same cases.
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
    """Write a trained step's comparisons into its output; the step `gates` decides by them."""
    text = json.dumps([asdict(gate) for gate in gates], indent=1)
    (folder / GATES_FILE).write_text(text + "\n", encoding="utf-8")


def read_gates(folder: Path) -> list[Gate]:
    """What `write_gates` wrote; nothing where a step had no model to compare."""
    path = folder / GATES_FILE
    if not path.exists():
        return []
    return [gate_of(row) for row in json.loads(path.read_text(encoding="utf-8"))]


def gate_of(row: Mapping[str, Any]) -> Gate:
    """A gate from its JSON document."""
    low, high = row["interval"]
    return Gate(**{**row, "interval": (float(low), float(high))})


def lost(gates: Sequence[Gate]) -> list[Gate]:
    """Comparisons with simple things that can serve, which the model lost; the best such thing first."""
    return sorted((gate for gate in gates if gate.serves and not gate.better), key=lambda gate: -gate.baseline_value)


def gate_figures(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the step `gates` put into a manifest, by model."""
    models: dict[str, dict[str, Any]] = manifest["steps"].get("gates", {}).get("figures", {}).get("models", {})
    return models


def gates_table(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """The table that ends a build.

    Args:
        models: model -> what the step `gates` put into the manifest.
    """
    table = Table(title="Models beside the simplest thing that could do their job", title_justify="left")
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
