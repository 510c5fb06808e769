"""Compares the live generation and the one on trial: counts of their requests, and equal requests to both."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from endcap_server.apply.compare import Comparison, compare
from endcap_server.apply.replay import Asker, samples
from endcap_server.serving.control import Answered
from endcap_server.serving.errors import ApplyError
from endcap_server.serving.running import RunningServer
from endcap_server.stages.trial import FILE as TRIAL_FILE


@dataclass(frozen=True)
class SideBySide:
    """Figures of two generations.

    Attributes:
        live: number of the live one.
        staged: number of the one on trial.
        trial: the announcement for clients.
        answered: ensemble -> (counts of the live one, counts of the other) since each was loaded.
        comparison: comparison with equal requests.
        recorded: how many of these requests were recorded.
    """

    live: int
    staged: int
    trial: dict[str, Any]
    answered: dict[str, tuple[Answered, Answered]]
    comparison: Comparison
    recorded: int

    def document(self) -> dict[str, Any]:
        """All figures."""
        return {
            "live": self.live,
            "staged": self.staged,
            "trial": self.trial,
            "answered": {
                name: {side: _figures(of) for side, of in zip(("live", "staged"), both, strict=True)}
                for name, both in self.answered.items()
            },
            "equal_requests": self.comparison.document(),
            "recorded": self.recorded,
        }

    def lines(self) -> list[str]:
        """Lines of a table."""
        mode = f"{self.trial['mode']} {self.trial['share']:.1%}" if self.trial else "no requests"
        lines = [f"{'':<28} {'live':>14} {'on trial':>14}", f"{'generation':<28} {self.live:>14} {self.staged:>14}"]
        lines.append(f"{'gets':<28} {'':>14} {mode:>14}")
        for name, both in self.answered.items():
            for label, values in (
                ("answers", [str(each.good) for each in both]),
                ("failures", [str(each.bad) for each in both]),
                ("mean time", [f"{each.mean_ms:.1f} ms" for each in both]),
            ):
                lines.append(f"{name + ' ' + label:<28} {values[0]:>14} {values[1]:>14}")
        lines.append(f"{self.comparison.requests} equal requests, {self.recorded} of them recorded:")
        lines += [f"{name:<28} {live:>14} {staged:>14}" for name, live, staged in self.comparison.lines()]
        return lines


def side_by_side(server: RunningServer, count: int) -> SideBySide:
    """Compare the generations of a server with a trial.

    Args:
        server: The server.
        count: Requests to send to both generations.

    Raises:
        ApplyError: no generation is on trial.
    """
    state = server.state_folder
    standing = state.journal.standing()
    if not standing.staged:
        raise ApplyError(
            "no generation runs beside the live one; `endcap apply --split 5%` or `--shadow 10%` loads one"
        )
    live, staged = state.read(standing.live), state.read(standing.staged)
    control, folder = server.control, Path(server.run_folder)
    answered = {each: (control.answered(each), control.answered(staged.staging(each))) for each in live.public}
    asked, recorded = samples(state.snapshot(live.number), folder, live.table, count)
    with Asker(server.http) as asker:
        names = {each: staged.staging(each) for each in staged.public}
        comparison = compare(asker, asked, {each: each for each in live.public}, names)
    try:
        trial = json.loads((folder / TRIAL_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        trial = {}
    return SideBySide(live.number, staged.number, trial, answered, comparison, recorded)


def _figures(answered: Answered) -> dict[str, Any]:
    return {"good": answered.good, "bad": answered.bad, "mean_ms": round(answered.mean_ms, 2)}
