"""The history of a server's generations: JSON lines. Each step is written before it starts.

If a rollout is interrupted, the next one reads from the history how far it came.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

STEPS = ("load", "compare", "switch", "watch", "back", "unload")
"""Steps of a rollout, in order; `back` only if the switch is reverted."""

Event = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One rollout in the history."""

    generation: int
    kind: str
    """served, apply or rollback."""
    source: str
    previous: int
    """The generation that was live at its start; 0 before the first."""
    began: str
    changed: tuple[str, ...] = ()
    """Models that were loaded for it."""
    steps: tuple[str, ...] = ()
    outcome: str = ""
    """live, staged, refused, failed, rolled back, undone, dropped, interrupted; empty while it runs."""
    reason: str = ""
    ended: str = ""
    to: int = 0
    """The generation to which a rollback returns."""

    @property
    def is_switched(self) -> bool:
        """Whether both ensembles were switched to it and not reverted."""
        return "watch" in self.steps and "back" not in self.steps


@dataclass(frozen=True)
class Standing:
    """State of a server according to its history."""

    live: int = 0
    """The generation that is served; 0 before the first."""
    newest: int = 0
    """The highest number of a generation."""
    open: int = 0
    """The generation whose rollout has started and not ended; 0 if there is none."""
    staged: int = 0
    """The generation on trial beside the live one; 0 if there is none."""
    runs: dict[int, Run] = field(default_factory=dict)

    @property
    def previous(self) -> int:
        """The generation to which a rollback returns: the one that was live before; 0 if there was none."""
        run = self.runs.get(self.live)
        while run is not None and run.to:
            run = self.runs.get(run.to)
        return run.previous if run is not None else 0

    @property
    def answering(self) -> set[int]:
        """Generations that requests reach: the live one, one on trial, and both sides of a running switch."""
        found = {self.live, self.staged}
        run = self.runs.get(self.open)
        if run is not None and run.steps and run.steps[-1] in ("switch", "watch"):
            found |= {run.generation, run.previous}
        return found - {0}


class Journal:
    """The file of the history.

    Args:
        path: `history.jsonl`; created with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, generation: int, **more: Any) -> None:
        """Add a line and flush it to disk."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({"time": now, "event": event, "generation": generation, **more}, ensure_ascii=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            # Start a new line after one that a full disk or a crash has cut.
            torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, (b"\n" if torn else b"") + line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def step(self, generation: int, step: str) -> None:
        """Record the next step."""
        self.write("step", generation, step=step)

    def events(self) -> Iterator[Event]:
        """All readable lines, oldest first."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        for line in text.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event and isinstance(event.get("generation"), int):
                yield event

    def standing(self) -> Standing:
        """State of the server."""
        standing = Standing()
        for event in self.events():
            standing = _after(standing, event)
        return standing


def _after(before: Standing, event: Event) -> Standing:
    number, kind = event["generation"], event["event"]
    runs = dict(before.runs)
    after = replace(before, newest=max(before.newest, number), runs=runs)
    if kind == "served":
        # The server started again: a generation on trial has ended.
        for each in {before.open, before.staged} - {0, number}:
            runs[each] = replace(runs[each], outcome="interrupted", ended=event["time"])
        if before.open == number:
            runs[number] = replace(runs[number], outcome="live", ended=event["time"])
        if number not in runs:
            runs[number] = Run(number, "served", event.get("source", ""), before.live, event["time"], outcome="live")
        return replace(after, live=number, open=0, staged=0)
    if kind == "began":
        runs[number] = Run(
            number,
            event["kind"],
            event.get("source", ""),
            before.live,
            event["time"],
            tuple(event.get("changed", ())),
            to=event.get("to", 0),
        )
        return replace(after, open=number)
    run = runs.get(number)
    if run is None:
        return before
    if kind == "step":
        step = event["step"]
        runs[number] = replace(run, steps=(*run.steps, step), outcome="")
        live = number if step == "watch" else run.previous if step == "back" else before.live
        staged = 0 if before.staged == number else before.staged
        return replace(after, live=live, open=number, staged=staged)
    if kind == "ended":
        outcome = event["outcome"]
        runs[number] = replace(run, outcome=outcome, reason=event.get("reason", ""), ended=event["time"])
        staged = number if outcome == "staged" else 0 if before.staged == number else before.staged
        return replace(after, open=0 if before.open == number else before.open, staged=staged)
    return after
