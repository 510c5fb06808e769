"""Which address to ask, whether to ask again, and when: decisions without any input or output.

Everything here is shared by all calls of a client, from all its threads.
"""

import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from endcap_client.options import Hedge, Retry
from endcap_client.staging import StagingTable

_AVOID_S = 1.0
"""How long an address that refused is passed over while another is there; also gRPC's wait between connects."""
_WINDOW = 256
_REFRESH = 16


class TokenBucket:
    """The budget of further tries: calls that went well pay a share in, each retry or hedge takes one out.

    With share 0.1, at most one call in ten is followed by a second try in the long run; the burst bounds what a quiet
    time saves up. A service in trouble is therefore never asked much more than a healthy one.
    """

    def __init__(self, share: float, burst: float):
        self._share = share
        self._burst = burst
        self._tokens = burst
        self._lock = threading.Lock()

    @property
    def tokens(self) -> float:
        """Further tries that could be paid now."""
        return self._tokens

    def earn(self) -> None:
        """Pay in for a call that went well."""
        if self._tokens < self._burst:
            with self._lock:
                self._tokens = min(self._burst, self._tokens + self._share)

    def spend(self) -> bool:
        """Take one out; False if there is none."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True

    def drain(self) -> None:
        """Take all out: an overloaded service gets no second tries until enough calls went well again."""
        with self._lock:
            self._tokens = 0.0


class LatencyWindow:
    """What the last 256 calls took, and a quantile of it (refreshed every 16 calls, for sorting is not free)."""

    def __init__(self, quantile: float, min_calls: int):
        self._quantile = quantile
        self._min_calls = min_calls
        self._seconds: deque[float] = deque(maxlen=_WINDOW)
        self._new = 0
        self._value: float | None = None
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        """Count one call."""
        with self._lock:
            self._seconds.append(seconds)
            self._new += 1
            if len(self._seconds) >= self._min_calls and (self._value is None or self._new >= _REFRESH):
                ordered = sorted(self._seconds)
                self._value = ordered[min(len(ordered) - 1, int(self._quantile * len(ordered)))]
                self._new = 0

    def value(self) -> float | None:
        """The quantile, seconds; None before enough calls were seen."""
        return self._value


class Servers:
    """The addresses, in turn; one that refused a moment ago comes last."""

    def __init__(self, addresses: Sequence[str]):
        self.addresses = tuple(addresses)
        self._next = 0
        self._avoid_until = [0.0] * len(self.addresses)
        self._lock = threading.Lock()

    def pick(self, now: float, tried: Collection[int] = ()) -> int:
        """Return the number of the address to ask next: best one that this call has not tried yet."""
        count = len(self.addresses)
        if count == 1:
            return 0
        with self._lock:
            order = [(self._next + step) % count for step in range(count)]
            chosen = min(order, key=lambda server: (server in tried, self._avoid_until[server] > now))
            self._next = (chosen + 1) % count
        return chosen

    def refused(self, server: int, now: float) -> None:
        """Note that there was no connection to it, or that it has nothing to answer with yet, or any more."""
        self._avoid_until[server] = now + _AVOID_S

    def answered(self, server: int) -> None:
        """Note that it answered, with whatever."""
        self._avoid_until[server] = 0.0


class Backoff:
    """The decision to try again."""

    def __init__(self, retry: Retry | None, budget: TokenBucket, draw: Callable[[], float] = random.random):
        self._retry = retry
        self._budget = budget
        self._draw = draw

    def wait_s(self, attempts: int, left_s: float) -> float | None:
        """Return how long to wait before trying again, or None for not at all.

        Args:
            attempts: tries so far.
            left_s: time left until the deadline, seconds.
        """
        retry = self._retry
        if retry is None or attempts >= retry.attempts:
            return None
        ceiling_ms = min(retry.max_ms, retry.base_ms * 2 ** (attempts - 1))
        wait_s = self._draw() * ceiling_ms / 1000
        # No token is spent on a try that the deadline would cut off at once.
        if wait_s >= left_s or not self._budget.spend():
            return None
        return wait_s


@dataclass(frozen=True)
class Counts:
    """What a client did so far.

    Attributes:
        calls: storefronts and searches asked for.
        retries: further tries after a failure.
        hedges: second requests because the first was slow.
        hedges_won: those of them that answered first.
        staged: tries that went to a generation on trial (a split of the traffic).
        shadows: requests that such a generation was asked besides.
        errors: failed calls, by `EndcapError.reason`.
        fallbacks: defaults that `storefront_or` and `search_or` gave, by the reason of the failure.
    """

    calls: int = 0
    retries: int = 0
    hedges: int = 0
    hedges_won: int = 0
    staged: int = 0
    shadows: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    fallbacks: Mapping[str, int] = field(default_factory=dict)


class Counters:
    """Counts as they grow."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, name: str, reason: str = "") -> None:
        """Count one of the fields of `Counts`, with its reason where it is counted by reason."""
        with self._lock:
            self._counts[name, reason] += 1

    def snapshot(self) -> Counts:
        """Return the counts of this moment."""
        with self._lock:
            counts = self._counts.copy()

        def by_reason(wanted: str) -> dict[str, int]:
            return {reason: count for (name, reason), count in counts.items() if name == wanted}

        return Counts(
            calls=counts["calls", ""],
            retries=counts["retries", ""],
            hedges=counts["hedges", ""],
            hedges_won=counts["hedges_won", ""],
            staged=counts["staged", ""],
            shadows=counts["shadows", ""],
            errors=by_reason("errors"),
            fallbacks=by_reason("fallbacks"),
        )


class Policy:
    """All of the above for one client."""

    def __init__(self, addresses: Sequence[str], retry: Retry | None, hedge: Hedge | None):
        budget = retry or Retry()
        self.servers = Servers(addresses)
        self.staging = StagingTable(len(addresses))
        self.budget = TokenBucket(budget.budget_share, budget.budget_burst)
        self.backoff = Backoff(retry, self.budget)
        self.counters = Counters()
        self._hedge = hedge if len(self.servers.addresses) > 1 else None
        self._windows: dict[str, LatencyWindow] = {}

    def hedge_after_s(self, model: str) -> float | None:
        """Return after how many seconds a call of this model is hedged; None is never."""
        window = self._windows.get(model)
        if self._hedge is None or window is None or (value := window.value()) is None:
            return None
        return max(value, self._hedge.min_ms / 1000)

    def went_well(self, model: str, seconds: float) -> None:
        """Learn from a call that was answered."""
        self.budget.earn()
        if self._hedge is not None:
            if model not in self._windows:
                self._windows.setdefault(model, LatencyWindow(self._hedge.quantile, self._hedge.min_calls))
            self._windows[model].add(seconds)
