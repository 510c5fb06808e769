"""Deadlines: nanoseconds of ``time.monotonic_ns``, a clock that all processes of a machine share."""

import time


def now_ns() -> int:
    """The clock of all deadlines."""
    return time.monotonic_ns()


def after_ms(milliseconds: float) -> int:
    """The deadline ``milliseconds`` from now."""
    return time.monotonic_ns() + int(milliseconds * 1e6)


def left_ms(deadline_ns: int) -> float:
    """Milliseconds until the deadline, negative when it has passed."""
    return (deadline_ns - time.monotonic_ns()) / 1e6
