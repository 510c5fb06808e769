"""The STATUS document of an answer: what each stage says about itself, the signals' names, and the versions served."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from endcap_server.stages.base import StatusPart

EARLIER = ("retrieval", "theme", "keywords", "rerank")
"""Stages before fusion, in the order of a request's way; a search has no theme and keywords."""

_MODELS = ("bi_encoder", "cross_encoder", "theme_llm", "keyword_llm", "ranker")


def status_document(
    earlier: dict[str, dict[str, Any]], fusion: StatusPart, signals: Sequence[str], versions: dict[str, str]
) -> dict[str, Any]:
    """Join the stages' parts.

    Args:
        earlier: Parts of the stages before fusion, by name, as :meth:`StatusPart.document` makes them; emptied of what
            only serves here.
        fusion: Fusion's own part.
        signals: Names of the last axis of SIGNALS.
        versions: As :func:`read_versions` answers.
    """
    parts = {**earlier, "fusion": fusion.document()}
    started_ns, finished_ns = int(parts["retrieval"]["started_ns"]), int(parts["fusion"]["finished_ns"])
    unknown_ids = int(parts["retrieval"].pop("unknown_ids", 0))
    unknown_rules = parts["retrieval"].pop("unknown_rules", [])
    for part in parts.values():
        # What was finished before this request began came from the response cache.
        if int(part.pop("finished_ns")) < started_ns:
            part |= {"source": "cached" if part["source"] == "generated" else part["source"], "ms": 0.0}
        part.pop("started_ns", None)
    return {
        "stages": parts,
        "signals": list(signals),
        "versions": versions,
        "unknown_ids": unknown_ids,
        "unknown_rules": unknown_rules,
        "degraded": [name for name, part in parts.items() if part["source"] == "fallback" or "reason" in part],
        "ms": round((finished_ns - started_ns) / 1e6, 3),
    }


def read_versions(build: Path) -> dict[str, str]:
    """Versions of what a build serves, from its manifest: catalogue, index and each model; "unknown" without one."""
    try:
        manifest = json.loads((build / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        manifest = {}
    steps = manifest.get("steps", {})
    versions = {"catalogue": str(manifest.get("catalogue", {}).get("digest", "unknown"))[:16]}
    for step in ("index", *_MODELS):
        versions[step] = str(steps.get(step, {}).get("fingerprint", "unknown"))
    return versions
