"""The log of what the sink of exposures survives: each kind of trouble at once, and then at most once a minute."""

import logging
import time
from collections.abc import Callable

_PERIOD_S = 60.0


class AtMostOnce(logging.Filter):
    """Lets a message pass once in a period, with how often it was left out since. Texts with other values are equal.

    Args:
        period_s: Seconds.
        clock: Seconds that only increase.
    """

    def __init__(self, period_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._period_s, self._clock = period_s, clock
        self._said: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        kind, now = str(record.msg), self._clock()
        since, left_out = self._said.get(kind, (now - self._period_s, 0))
        if now - since < self._period_s:
            self._said[kind] = since, left_out + 1
            return False
        self._said[kind] = now, 0
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} more like it since {now - since:.0f} s)", ()
        return True


LOG = logging.getLogger("endcap_server.exposures")
"""Of everything in this package."""
LOG.addFilter(AtMostOnce(_PERIOD_S))
