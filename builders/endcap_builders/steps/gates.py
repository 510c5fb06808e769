"""Step `gates`: decides which trained models serve. A model that is not better than its baseline is not installed."""

import json
from typing import Any, Literal

from endcap_server.shop.gates import GATES_FILE
from pydantic import Field

from endcap_builders.gates import Gate, lost, read_gates
from endcap_builders.step import BuildContext, Settings, Step

SERVED = ("cross_encoder", "theme_llm", "keyword_llm", "ranker")
"""Models that serve. The teacher does not; its effect is measured in the cross-encoder."""
COMPARED = ("teacher", *SERVED)


class GatesSettings(Settings):
    """Settings of the decision."""

    mode: Literal["enforce", "warn", "off"] = Field(
        "enforce",
        description="a model that is not better than the simple thing: not installed (enforce), installed and said so "
        "(warn), or installed without a word (off)",
    )


def run(ctx: BuildContext, settings: GatesSettings) -> dict[str, Any]:
    """Write gates.json: the decision for each model."""
    if settings.mode == "off":
        (ctx.output / GATES_FILE).write_text("{}\n", encoding="utf-8")
        return {"mode": settings.mode, "models": {}}
    models = {name: _verdict(name, read_gates(ctx.input(name)), settings.mode) for name in COMPARED}
    models = {name: entry for name, entry in models.items() if entry["gates"]}
    for name, entry in models.items():
        if not entry["installed"]:
            ctx.log(f"{name} is not installed: {entry['serves']} does better and serves in its place")
    served = {
        name: {"installed": entry["installed"], "serves": entry["serves"]}
        for name, entry in models.items()
        if name in SERVED
    }
    (ctx.output / GATES_FILE).write_text(json.dumps(served, indent=1) + "\n", encoding="utf-8")
    return {"mode": settings.mode, "models": models}


def _verdict(name: str, gates: list[Gate], mode: str) -> dict[str, Any]:
    losses = lost(gates)
    refused = bool(losses) and mode == "enforce" and name in SERVED
    return {
        "installed": not refused,
        "serves": losses[0].baseline_name if refused else name,
        "gates": [{**vars(gate), "interval": list(gate.interval)} for gate in gates],
    }


STEP = Step(
    name="gates",
    needs=COMPARED,
    settings=GatesSettings,
    run=run,
    help="comparing the models with simple things",
    reads=dict.fromkeys(COMPARED, (GATES_FILE,)),
)
