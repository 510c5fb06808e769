"""Triton's own statistics of each model (GetStatistics), as differences between two moments."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tritonclient.grpc import InferenceServerClient

_DURATIONS = ("success", "queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class ModelStatistics:
    """Counts, and milliseconds summed over the requests, of one model.

    `success_ms` is from arrival to answer. For models that answer asynchronously from their own threads (all of
    endcap's), Triton 24.10 counts the other durations only until `execute` returns. For an ensemble they are sums over
    the steps.
    """

    requests: int = 0
    failures: int = 0
    executions: int = 0
    success_ms: float = 0.0
    queue_ms: float = 0.0
    compute_input_ms: float = 0.0
    compute_infer_ms: float = 0.0
    compute_output_ms: float = 0.0

    def __sub__(self, earlier: "ModelStatistics") -> "ModelStatistics":
        names = [each.name for each in fields(self)]
        return ModelStatistics(**{name: getattr(self, name) - getattr(earlier, name) for name in names})

    def document(self) -> dict[str, Any]:
        """Counts and means for a report."""
        document: dict[str, Any] = {
            "requests": self.requests,
            "failures": self.failures,
            "executions": self.executions,
        }
        for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
            total = getattr(self, f"{name}_ms")
            document[f"mean_{name}_ms"] = round(total / self.requests, 4) if self.requests else 0.0
        return document


Snapshot = Mapping[str, ModelStatistics]


def snapshot(client: InferenceServerClient) -> dict[str, ModelStatistics]:
    """Statistics since the server started, by model."""
    answer = client.get_inference_statistics()
    return {model.name: _read(model) for model in answer.model_stats}


def difference(before: Snapshot, after: Snapshot) -> dict[str, ModelStatistics]:
    """The differences between two snapshots; a model that was loaded between them starts at zero."""
    return {name: now - before.get(name, ModelStatistics()) for name, now in after.items()}


def _read(model: Any) -> ModelStatistics:
    stats = model.inference_stats
    durations = {f"{name}_ms": getattr(stats, name).ns / 1e6 for name in _DURATIONS}
    return ModelStatistics(
        requests=stats.success.count,
        failures=stats.fail.count,
        executions=model.execution_count,
        **durations,
    )
