"""The budget of a request: shares of it for the stages, tiers that keep cache keys few, deadlines on the shared clock.

Deadlines are nanoseconds of ``time.monotonic_ns``, a clock that all processes of a machine share.
"""

import time

TIER_RATIO = 1.25
"""Step between two tiers: a share is rounded down by at most a fifth."""


def now_ns() -> int:
    """The clock of all deadlines."""
    return time.monotonic_ns()


def after_ms(milliseconds: float) -> int:
    """The deadline ``milliseconds`` from now."""
    return time.monotonic_ns() + int(milliseconds * 1e6)


def left_ms(deadline_ns: int) -> float:
    """Milliseconds until the deadline, negative when it has passed."""
    return (deadline_ns - time.monotonic_ns()) / 1e6


def tier_ms(milliseconds: float) -> int:
    """Round a share down to a geometric tier, in whole milliseconds; 0 for less than one.

    ``theme`` and ``keywords`` are cached by their inputs, and their budget is one of them: with tiers, requests whose
    budgets differ a little share an answer.
    """
    if milliseconds < 1:
        return 0
    tier = 1.0
    while tier * TIER_RATIO <= milliseconds:
        tier *= TIER_RATIO
    return int(tier)
