"""The history of a server's generations: JSON lines, of which each step is written before it is taken.

So whatever ends a rollout in the middle, the next one finds how far it came.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

STEPS = ("load", "compare", "switch", "watch", "back", "unload")
"""What a rollout does, in order; `back` only when the switch is taken back."""

Event = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One rollout as the history tells it."""

    generation: int
    kind: str
    """served, apply or rollback."""
    source: str
    previous: int
    """The generation that was live when it began; 0 before the first."""
    began: str
    changed: tuple[str, ...] = ()
    """Models that were loaded for it."""
    steps: tuple[str, ...] = ()
    outcome: str = ""
    """live, staged, refused, failed, rolled back, undone, dropped, interrupted; empty while it runs."""
    reason: str = ""
    ended: str = ""
    to: int = 0
    """The generation that a rollback goes back to."""

    @property
    def is_switched(self) -> bool:
        """Whether both ensembles were switched to it, and not back."""
        return "watch" in self.steps and "back" not in self.steps


@dataclass(frozen=True)
class Standing:
    """Where a server stands according to its history."""

    live: int = 0
    """The generation that is served; 0 before the first."""
    newest: int = 0
    """The highest number that was given."""
    open: int = 0
    """The generation whose rollout has begun and not ended; 0 if there is none."""
    staged: int = 0
    """The generation that runs beside the live one for shadow or split traffic; 0 if there is none."""
    runs: dict[int, Run] = field(default_factory=dict)

    @property
    def previous(self) -> int:
        """What a rollback goes back to: the generation that was live before what is served now; 0 if none was."""
        run = self.runs.get(self.live)
        while run is not None and run.to:
            run = self.runs.get(run.to)
        return run.previous if run is not None else 0

    @property
    def answering(self) -> set[int]:
        """Generations that requests reach: the live one, one on trial, and both sides of a switch under way."""
        found = {self.live, self.staged}
        run = self.runs.get(self.open)
        if run is not None and run.steps and run.steps[-1] in ("switch", "watch"):
            found |= {run.generation, run.previous}
        return found - {0}


class Journal:
    """The file of the history.

    Args:
        path: `history.jsonl`; made with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, generation: int, **more: Any) -> None:
        """Add a line and see it on the disk before going on."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({"time": now, "event": event, "generation": generation, **more}, ensure_ascii=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            # A line that a full disk or a crash cut short stands alone.
            torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, (b"\n" if torn else b"") + line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def step(self, generation: int, step: str) -> None:
        """Say which step is taken next."""
        self.write("step", generation, step=step)

    def events(self) -> Iterator[Event]:
        """All lines that can be read, oldest first."""
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
        """Where the server stands."""
        standing = Standing()
        for event in self.events():
            standing = _after(standing, event)
        return standing


def _after(before: Standing, event: Event) -> Standing:
    number, kind = event["generation"], event["event"]
    runs = dict(before.runs)
    after = replace(before, newest=max(before.newest, number), runs=runs)
    if kind == "served":
        # The server started: what ran beside the live generation is gone.
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
