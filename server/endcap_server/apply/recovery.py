"""What became of a rollout whose process ended in the middle: it is finished, or taken back."""

from endcap_server.apply.rollout import Rollout


def recover(rollout: Rollout, *, undo: bool = False) -> int:
    """Bring a server in order that an earlier rollout left half-way.

    A rollout that had both ensembles switched is finished, any other is taken back.

    Args:
        rollout: Of this server.
        undo: Take it back in any case.

    Returns:
        The generation whose rollout was found open, 0 if there was none.
    """
    standing = rollout.journal.standing()
    if not standing.open:
        return 0
    number, run = standing.open, standing.runs[standing.open]
    previous = rollout.state.read(run.previous)
    where = run.steps[-1] if run.steps else "its begin"
    if run.is_switched and not undo and rollout.state.has(number):
        rollout.report(f"the rollout of generation {number} ended at {where}: finishing it")
        rollout.finish(rollout.state.read(number), previous)
    else:
        rollout.report(f"the rollout of generation {number} ended at {where}: taking it back")
        rollout.undo(number, previous, "undone", f"its process ended at {where}")
    return number
