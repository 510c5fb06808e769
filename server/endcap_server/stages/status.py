"""STATUS: the part of each stage, its way to fusion, and the document for callers."""

import json
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from endcap_server.declared.errors import EngineError
from endcap_server.declared.reasons import NO_ENGINE, Source
from endcap_server.declared.tensors import compact_json, document_tensor, json_of
from endcap_server.shop.gates import read_verdicts

STATUS_TENSORS = {"retrieval": "PAGE", "theme": "THEMES", "keywords": "KEYWORDS", "rerank": "RERANK_STATUS"}
"""Stages before fusion, in the order of a request, and the tensor with the status of each.

If a stage passes a document to the following stages, its status is in that document, which saves a tensor. A search has
no theme and keywords.
"""

arrived_ns: ContextVar[int] = ContextVar("arrived_ns")
"""Arrival of the current request in its stage's process, by ``time.monotonic_ns``; unset outside a server."""

_MODELS = ("bi_encoder", "cross_encoder", "theme_llm", "keyword_llm", "ranker")
_MOST_REFUSED = 8
"""Most refused texts in the part of a stage."""
_DIGITS = 19
"""Digits of the largest int64."""


class StatusPart:
    """The part of one stage in STATUS.

    ``aiqa`` counts what was removed or repaired, by reason. ``fall_back`` records that the answer, or a part of it, is
    a fallback, and why. A stage's time starts when the request reaches its process, so it includes reading tensors and
    waiting for the stage's event loop.
    """

    def __init__(self, source: str = Source.COMPUTED, extra: Mapping[str, Any] | None = None):
        self.started_ns = arrived_ns.get(0) or time.monotonic_ns()
        self.source = source
        self.reasons: list[str] = []
        self.causes: dict[tuple[str, str], None] = {}
        self._failed = False
        self.aiqa: dict[str, int] = {}
        self.extra: dict[str, Any] = dict(extra or {})

    def count(self, check: StrEnum, number: int = 1, *, name: str = "", text: str = "") -> None:
        """Count ``number`` findings of a quality check that the stage declares.

        Args:
            check: The check.
            number: How many.
            name: Its name in STATUS, if another one.
            text: What was refused; the first few are in STATUS.
        """
        if number:
            key = name or check.value
            self.aiqa[key] = self.aiqa.get(key, 0) + int(number)
            if text and len(refused := self.extra.setdefault("refused", [])) < _MOST_REFUSED:
                refused.append({"text": text, "check": key})

    def fall_back(
        self, reason: str, cause: StrEnum, engine: str = NO_ENGINE, *, whole: bool = True, again: bool = False
    ) -> None:
        """Record that the stage degraded: the whole answer, or a part of it (then the source does not change).

        Args:
            reason: A sentence for people.
            cause: The same as a code, of the engine or declared by the stage.
            engine: The engine whose answer is missing.
            whole: Whether the whole answer is a fallback.
            again: Whether an equal request would get the same: nothing failed, and time has no part in it.
        """
        if whole:
            self.source = Source.FALLBACK
        self._failed |= not again
        if reason not in self.reasons:
            self.reasons.append(reason)
        self.causes[engine, str(cause)] = None

    def fall_back_on(self, error: EngineError, sentence: str = "{error}", *, whole: bool = True) -> None:
        """Record that the stage degraded because an engine failed; ``sentence`` describes the consequence."""
        self.fall_back(sentence.format(error=error), error.cause, error.engine, whole=whole)

    @property
    def can_be_kept(self) -> bool:
        """Whether the answer may be given to equal requests: it is no fallback, and no part of it is one by chance."""
        return self.source != Source.FALLBACK and not self._failed

    @property
    def lasting(self) -> dict[str, Any]:
        """What also applies when the answer comes from the cache: everything but source and times."""
        kept = {"aiqa": self.aiqa, **self.extra}
        if self.reasons:
            kept["reason"] = "; ".join(self.reasons)
            kept["causes"] = [{"engine": engine, "cause": cause} for engine, cause in self.causes]
        return kept

    def document(self) -> dict[str, Any]:
        """The stage's part of STATUS so far; `ms` and `finished_ns` are up to now."""
        finished_ns = time.monotonic_ns()
        part: dict[str, Any] = {
            "source": self.source,
            "ms": _ms(self.started_ns, finished_ns),
            **self.lasting,
        }
        return part | {"started_ns": self.started_ns, "finished_ns": finished_ns}


def carried(part: Mapping[str, Any], document: str = "{}") -> np.ndarray:
    """The tensor that carries a stage's part of STATUS to fusion: the last member, `status`, of a document.

    Args:
        part: As :meth:`StatusPart.document` makes it; `finished_ns` becomes its last member.
        document: JSON object to which it is added.
    """
    rest = {name: value for name, value in part.items() if name != "finished_ns"}
    digits = f"{part['finished_ns']:{_DIGITS}}"
    before = "{" if document == "{}" else document[:-1] + ","
    return document_tensor(f'{before}"status":{compact_json(rest)[:-1]},"finished_ns":{digits}}}}}')


def part_of(tensor: np.ndarray) -> dict[str, Any]:
    """The part of STATUS in a tensor of :func:`carried`; empty for a document without one."""
    part: dict[str, Any] = json_of(tensor).get("status", {})
    return part


def finish(tensor: np.ndarray) -> None:
    """Set the end time in a tensor of :func:`carried` to now, in place.

    A stage's time includes the serialization of its answer, so this is called just before sending. STATUS itself is
    BYTES and is not changed.
    """
    if tensor.dtype == np.uint8:
        tensor[-2 - _DIGITS : -2] = np.frombuffer(b"%*d" % (_DIGITS, time.monotonic_ns()), np.uint8)


def status_document(
    earlier: dict[str, dict[str, Any]],
    fusion: StatusPart,
    signals: Sequence[str],
    versions: dict[str, str],
    facts_as_of: float | None = None,
) -> dict[str, Any]:
    """Join the stages' parts.

    Args:
        earlier: Parts of the stages before fusion, by name, from :meth:`StatusPart.document`; members that callers do
            not get are removed.
        fusion: Fusion's own part.
        signals: Names of the last axis of SIGNALS.
        versions: From :func:`read_versions`.
        facts_as_of: Until when changes of stock and prices are known, in seconds since 1970.
    """
    parts = {**earlier, "fusion": fusion.document()}
    started_ns, finished_ns = int(parts["retrieval"]["started_ns"]), int(parts["fusion"]["finished_ns"])
    unknown_ids = int(parts["retrieval"].pop("unknown_ids", 0))
    unknown_rules = parts["retrieval"].pop("unknown_rules", [])
    understood = {}
    if "not_understood" in parts["retrieval"]:
        reason = parts["retrieval"].pop("not_understood")
        understood = {"understood": reason is None} | ({"not_understood": reason} if reason else {})
    for part in parts.values():
        part["ms"] = _ms(int(part.pop("started_ns")), int(part.pop("finished_ns")))
    return {
        "stages": parts,
        "signals": list(signals),
        "versions": versions,
        "facts_as_of": None if facts_as_of is None else utc_time(facts_as_of),
        "unknown_ids": unknown_ids,
        "unknown_rules": unknown_rules,
        **understood,
        "degraded": [name for name, part in parts.items() if part["source"] == Source.FALLBACK or "reason" in part],
        "ms": _ms(started_ns, finished_ns),
    }


def utc_time(seconds: float) -> str:
    """A time in seconds since 1970 as text: "2026-11-28T22:50:01.123Z"."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_versions(build: Path) -> dict[str, str]:
    """Versions of catalogue, index and each model of a build, from its manifest; "unknown" without one.

    For a model that is not installed, the version names what serves instead.
    """
    try:
        manifest = json.loads((build / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        manifest = {}
    steps = manifest.get("steps", {})
    versions = {"catalogue": str(manifest.get("catalogue", {}).get("digest", "unknown"))[:16]}
    verdicts = read_verdicts(build)
    for step in ("index", *_MODELS):
        verdict = verdicts.get(step)
        if verdict is not None and not verdict.installed:
            versions[step] = f"not installed: {verdict.serves}"
        else:
            versions[step] = str(steps.get(step, {}).get("fingerprint", "unknown"))
    return versions


def _ms(started_ns: int, finished_ns: int) -> float:
    return round((finished_ns - started_ns) / 1e6, 3)
