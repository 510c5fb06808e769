"""Rolling out, promoting and going back: what the commands do, and whoever else changes the generation of a server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from endcap_server.apply.recovery import recover
from endcap_server.apply.rollout import Report, Rollout, RolloutOptions
from endcap_server.serving.errors import ApplyError
from endcap_server.serving.running import RunningServer


def apply(server: RunningServer, source: Path | None, report: Report, options: RolloutOptions) -> None:
    """Roll out a build or a model repository, as live or on trial.

    Args:
        server: The server.
        source: A build or a model repository; None: where the live one came from.
        report: Called with each line of progress.
        options: Of the rollout.

    Raises:
        RolloutRefused: A check found a problem; the live generation is unchanged.
        ApplyError: It failed, or another rollout is under way; the live generation is unchanged.
        ControlError: The server does not answer.
    """
    with _rollout(server, report, options) as rollout:
        recover(rollout)
        number = rollout.apply(source)
        if number is None:
            return
        if (trial := options.trial) is None:
            report(f"generation {number} is live")
        else:
            report(f"generation {number} runs beside the live one, {trial.mode} {trial.share:.1%}")
            report("look with `endcap compare`, then `endcap apply --promote` or `endcap rollback`")


def promote(server: RunningServer, report: Report, options: RolloutOptions) -> None:
    """Make live what is on trial; arguments and errors as of `apply`."""
    with _rollout(server, report, options) as rollout:
        recover(rollout)
        report(f"generation {rollout.promote()} is live")


def roll_back(server: RunningServer, to: int, report: Report, options: RolloutOptions) -> None:
    """Take back a rollout that was interrupted, end a trial, or go back to an earlier generation.

    Args:
        server: The server.
        to: A generation; 0: whatever of these comes first, at last the generation before the live one.
        report: Called with each line of progress.
        options: Of the rollout.

    Raises:
        ApplyError: There is nothing to go back to; else as of `apply`.
    """
    with _rollout(server, report, options) as rollout:
        if recover(rollout, undo=True) and not to:
            report(f"generation {rollout.journal.standing().live} is live")
            return
        standing = rollout.journal.standing()
        if standing.staged and not to:
            rollout.undo(standing.staged, rollout.live(), "dropped", "its trial was ended")
            report(f"the trial of generation {standing.staged} has ended; generation {standing.live} is live")
            return
        back_to = to or standing.previous
        if not back_to or not rollout.state.has(back_to):
            kept = ", ".join(map(str, rollout.state.kept()))
            there = f"generation {back_to or 'before the live one'}"
            raise ApplyError(f"there is no {there} to go back to; kept are {kept}")
        number = rollout.apply(rollout.state.snapshot(back_to), kind="rollback", to=back_to)
        if number is not None:
            report(f"generation {number} is live: what generation {back_to} was")


@contextmanager
def _rollout(server: RunningServer, report: Report, options: RolloutOptions) -> Iterator[Rollout]:
    with server.state_folder.locked():
        yield Rollout(server, report, options)
