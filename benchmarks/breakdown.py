"""Divides a request's time: queue, the stages' own compute, engines, ensemble, and client with network."""

from collections.abc import Mapping
from typing import Any


def breakdown(kind: str, level: Mapping[str, Any], shares: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means of one client at a time.

    Args:
        kind: "storefront" or "search".
        level: The closed loop's document of one client.
        shares: For each stage, its own time and the engines' time, from :func:`benchmarks.engine_calls.engine_shares`.

    Returns:
        `stages`: for each, `ms` (from STATUS), divided into `engine_ms` and `own_ms` in the proportion of the
        replayed calls, and Triton's `queue_ms` and `tensors_ms` (input and output); `stages_ms`: their sum;
        `inputs_ms`: Triton's compute input of all stages, the part of their compute before a request reaches their
        processes; `ensemble_adds_ms`: the ensemble's time in Triton's statistics less both; `client_adds_ms`: client,
        wire and front end. These are means; `beyond_stages_median_ms` is the median over the requests of all that is
        not `stages_ms`.
    """
    models = level["models"]
    stages = {}
    for stage, ms in level["stage_ms"].items():
        model, share = models.get(stage, {}), shares.get(stage, {})
        whole = share.get("own_ms", 0.0) + share.get("engine_ms", 0.0)
        of_engines = share["engine_ms"] / whole if whole else 0.0
        stages[stage] = {
            "ms": ms,
            "engine_ms": round(ms * of_engines, 3),
            "own_ms": round(ms * (1 - of_engines), 3),
            "queue_ms": model.get("mean_queue_ms", 0.0),
            "tensors_ms": round(model.get("mean_compute_input_ms", 0.0) + model.get("mean_compute_output_ms", 0.0), 4),
            "calls": dict(share.get("calls", {})),
        }
    total = sum(level["stage_ms"].values())
    inputs = sum(models.get(stage, {}).get("mean_compute_input_ms", 0.0) for stage in stages)
    ensemble = models[kind]["mean_success_ms"]
    return {
        "requests": level["answered"],
        "stages": stages,
        "stages_ms": round(total, 3),
        "ensemble_ms": round(ensemble, 3),
        "inputs_ms": round(inputs, 3),
        "ensemble_adds_ms": round(ensemble - total - inputs, 3),
        "client_ms": level["latency_ms"]["mean"],
        "client_adds_ms": round(level["latency_ms"]["mean"] - ensemble, 3),
        "beyond_stages_median_ms": level["beyond_stages_ms"],
    }
