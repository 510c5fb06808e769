"""Waiting for what happens in another thread or process."""

import time
from collections.abc import Callable

HANGS_S = 90.0
"""What takes longer hangs, on however busy a machine: tests do not say how fast things are."""


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < HANGS_S, f"expected within {HANGS_S:g} s: {what}"
        time.sleep(0.05)
