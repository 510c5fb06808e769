"""Admission: admits requests that can be answered within their budget, and refuses the others at once.

Without admission, an overloaded server answers every request late or degraded. The decision needs the work ahead of a
request, in seconds of the whole server: the sum of the costs of the requests in flight. The cost model is processor
sharing: the server is divided equally among all requests in flight. A request that is alone costs the time that it
takes, and a request among nine others a tenth of that. The costs of all requests then add up to the time that the
server was busy, whatever runs in parallel or in batches inside.

The expected time of a request (the work ahead plus its own cost) is corrected by the times that requests really took:
waiting for an engine that hangs, for example, takes time but is no work.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic_ns

from endcap_server.declared.errors import OverloadError
from endcap_server.stages.in_flight import SLOTS, InFlight

SAMPLE_WEIGHT = 0.2
"""Weight of the newest cost in the running mean."""
STALE_NS = 10_000_000_000
"""Age of the newest sample from which a mean is no longer used."""
_UP, _DOWN = 1.15, 1.02
_CORRECTIONS = (0.1, 2.0)
_PATIENCE = 3
_GRACE_NS = 500_000_000
_REMEMBERED_NS = 10_000_000_000


class Refusal(StrEnum):
    """Why a valid request is refused."""

    LATE = "late"
    """It is not expected to finish within its budget."""
    FULL = "full"
    """The limit of requests in flight is reached."""
    STOPPING = "stopping"
    """The server is about to stop."""


@dataclass
class _Cost:
    """Running mean of one kind's cost, nanoseconds of the whole server."""

    mean: float = 0.0
    samples: int = 0
    newest_ns: int = 0

    def add(self, cost: float, now_ns: int) -> None:
        if now_ns - self.newest_ns > STALE_NS:
            self.samples = 0
        self.samples += 1
        self.newest_ns = now_ns
        self.mean += (cost - self.mean) * max(SAMPLE_WEIGHT, 1 / self.samples)

    def known(self, now_ns: int) -> bool:
        return self.samples > 0 and now_ns - self.newest_ns <= STALE_NS


@dataclass(frozen=True)
class _Admitted:
    kind: str
    at_ns: int
    served: float
    """Service that a request in flight had received in all until then: the clock of processor sharing."""
    budget_ns: float
    judged: bool
    """Whether the forecast decided; False if fewer than `min_in_flight` requests were in flight."""
    until_ns: int
    """It counts as in flight until then, or until it is known to be finished."""


class Admission:
    """Decides whether to admit each request. One instance per server, used by one thread.

    Args:
        table: Requests in flight.
        max_in_flight: Limit of requests in flight.
        min_in_flight: With fewer in flight, every request is admitted; its time corrects a wrong forecast.
        aim: Largest expected share of its budget with which a request is admitted.
        clock: Nanoseconds.
    """

    def __init__(
        self,
        table: InFlight,
        max_in_flight: int = SLOTS,
        min_in_flight: int = 2,
        aim: float = 0.85,
        clock: Callable[[], int] = monotonic_ns,
    ):
        self.table = table
        self.max_in_flight, self.min_in_flight, self.aim, self.clock = max_in_flight, min_in_flight, aim, clock
        self._admitted: dict[int, _Admitted] = {}
        self._overdue: dict[int, _Admitted] = {}
        self._costs: dict[str, _Cost] = {}
        self._served, self._served_until_ns = 0.0, 0
        self._own = 0.0
        self._correction = 1.0
        self._refused = False

    @property
    def in_flight(self) -> int:
        """Requests that were admitted and are not known to be finished."""
        return len(self._admitted)

    def admit(self, kind: str, deadline_ns: int, budget_ms: float) -> int:
        """Admit a request; returns its key for ``table.leave``: the deadline, moved by nanoseconds if that is taken.

        Args:
            kind: Requests of one kind cost about the same.
            deadline_ns: When its budget ends, on the clock.
            budget_ms: Its whole budget.

        Raises:
            Overloaded: It is not expected to finish in time, or there are too many already.
        """
        now_ns = self.clock()
        self._catch_up(now_ns)
        count, budget_ns = len(self._admitted), budget_ms * 1e6
        if count >= self.max_in_flight:
            raise self._overloaded(f"{count} requests in flight, the most that max_in_flight allows", Refusal.FULL)
        expected_ns = self._expected(kind, now_ns)
        if count >= self.min_in_flight and expected_ns > self.aim * budget_ns:
            raise self._overloaded(
                f"{count} requests in flight, an answer is expected to take {expected_ns / 1e6:.0f} ms, more than "
                f"{self.aim:.0%} of the budget of {budget_ms:.0f} ms",
                Refusal.LATE,
            )
        # Nothing reports a request that its client gave up, so it must not count for a long budget.
        until_ns = min(deadline_ns + _GRACE_NS, now_ns + _REMEMBERED_NS)
        key = self.table.enter(deadline_ns, until_ns)
        if key is None:
            raise self._overloaded(f"{count} requests in flight, the most that the table holds", Refusal.FULL)
        if expected_ns:
            until_ns = min(until_ns, now_ns + int(_PATIENCE * expected_ns) + _GRACE_NS)
        judged = count >= self.min_in_flight
        self._admitted[key] = _Admitted(kind, now_ns, self._served, budget_ns, judged, until_ns)
        return key

    def withdraw(self, key: int) -> None:
        """Forget a request that was admitted and then failed in this stage."""
        self.table.remove(key)
        self._admitted.pop(key, None)
        self._overdue.pop(key, None)

    def _overloaded(self, reason: str, code: Refusal) -> OverloadError:
        self._refused = True
        return OverloadError(f"overloaded: {reason}; try again later", code)

    def _expected(self, kind: str, now_ns: int) -> float:
        """Nanoseconds that one more request is expected to take.

        Its own cost counts as the mean cost of all requests. Otherwise, cheap requests would take all free capacity,
        and expensive ones would never be admitted.
        """
        counts = Counter(each.kind for each in self._admitted.values())
        self._own += (self._cost(kind, now_ns) - self._own) * SAMPLE_WEIGHT
        return self._correction * (self._own + sum(n * self._cost(each, now_ns) for each, n in counts.items()))

    def _cost(self, kind: str, now_ns: int) -> float:
        """Cost of a request of this kind; without samples, the largest cost so far of one in flight."""
        cost = self._costs.get(kind)
        if cost is not None and cost.known(now_ns):
            return cost.mean
        return max((self._served - each.served for each in self._admitted.values() if each.kind == kind), default=0.0)

    def _catch_up(self, now_ns: int) -> None:
        """Process what happened to the requests in flight since the last call, in order of time."""
        for when_ns, key, done in self.table.clear(now_ns):
            self._serve_until(when_ns)
            admitted = self._admitted.pop(key, None) or self._overdue.pop(key, None)
            if admitted is not None and done:
                cost = self._costs.setdefault(admitted.kind, _Cost())
                cost.add(self._served - admitted.served, when_ns)
                self._correct((when_ns - admitted.at_ns) / admitted.budget_ns, admitted.judged)
        self._serve_until(now_ns)
        for key in [key for key, each in self._admitted.items() if each.until_ns <= now_ns]:
            self._overdue[key] = self._admitted.pop(key)

    def _serve_until(self, now_ns: int) -> None:
        self._served += max(0, now_ns - self._served_until_ns) / max(1, len(self._admitted))
        self._served_until_ns = max(now_ns, self._served_until_ns)

    def _correct(self, used: float, judged: bool) -> None:
        """Raise the forecast when answers are late; lower it when they are early while others are refused.

        An answer that used nearly all of its budget counts as late, because stages degrade to stay within it.
        """
        least, most = _CORRECTIONS
        if used > (1 + self.aim) / 2:
            # Without a forecast there is nothing to correct: the budget may be too short for any page.
            if judged:
                self._correction = min(most, self._correction * _UP)
        elif used < self.aim and self._refused:
            self._correction = max(least, self._correction / _DOWN)
            self._refused = False
