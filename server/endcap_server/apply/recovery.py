"""Completes or reverts a rollout that was interrupted."""

from endcap_server.apply.rollout import Rollout


def recover(rollout: Rollout, *, undo: bool = False) -> int:
    """Restore a consistent state after an interrupted rollout.

    A rollout that had switched both ensembles is completed, any other is reverted.

    Args:
        rollout: Rollouts of this server.
        undo: Revert it in any case.

    Returns:
        The generation of the interrupted rollout; 0 if there was none.
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
