"""Decisions about addresses, retries and hedges, without input or output.

All calls of a client share these objects, from all its threads.
"""

import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from endcap_client.options import Hedge, Retry
from endcap_client.staging import StagingTable

_AVOID_S = 1.0
"""Seconds for which an address that refused is avoided; also gRPC's wait between connects."""
_WINDOW = 256
_REFRESH = 16


class TokenBucket:
    """The budget of retries and hedges: a successful call adds a share of a token, each retry or hedge takes one.

    With share 0.1, at most one call in ten has a second attempt in the long run; the burst limits what accumulates. A
    server in trouble therefore never gets much more load than a healthy one.
    """

    def __init__(self, share: float, burst: float):
        self._share = share
        self._burst = burst
        self._tokens = burst
        self._lock = threading.Lock()

    @property
    def tokens(self) -> float:
        """Tokens in the bucket."""
        return self._tokens

    def earn(self) -> None:
        """Add the share of a successful call."""
        if self._tokens < self._burst:
            with self._lock:
                self._tokens = min(self._burst, self._tokens + self._share)

    def spend(self) -> bool:
        """Take one token; False if there is none."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True

    def drain(self) -> None:
        """Empty the bucket, so that an overloaded service gets no retries until enough calls succeed."""
        with self._lock:
            self._tokens = 0.0


class LatencyWindow:
    """Latencies of the last 256 calls, and a quantile of them, updated every 16 calls because of the sort."""

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
    """The addresses, in turn; one that has just refused comes last."""

    def __init__(self, addresses: Sequence[str]):
        self.addresses = tuple(addresses)
        self._next = 0
        self._avoid_until = [0.0] * len(self.addresses)
        self._lock = threading.Lock()

    def pick(self, now: float, tried: Collection[int] = ()) -> int:
        """Return the number of the next address, preferably one that this call has not tried."""
        count = len(self.addresses)
        if count == 1:
            return 0
        with self._lock:
            order = [(self._next + step) % count for step in range(count)]
            chosen = min(order, key=lambda server: (server in tried, self._avoid_until[server] > now))
            self._next = (chosen + 1) % count
        return chosen

    def refused(self, server: int, now: float) -> None:
        """Record that there was no connection, or that the server is not ready."""
        self._avoid_until[server] = now + _AVOID_S

    def answered(self, server: int) -> None:
        """Record any answer of a server."""
        self._avoid_until[server] = 0.0


class Backoff:
    """Decides about retries."""

    def __init__(self, retry: Retry | None, budget: TokenBucket, draw: Callable[[], float] = random.random):
        self._retry = retry
        self._budget = budget
        self._draw = draw

    def wait_s(self, attempts: int, left_s: float) -> float | None:
        """Return the wait before the next attempt; None: no retry.

        Args:
            attempts: attempts so far.
            left_s: time left until the deadline, seconds.
        """
        retry = self._retry
        if retry is None or attempts >= retry.attempts:
            return None
        ceiling_ms = min(retry.max_ms, retry.base_ms * 2 ** (attempts - 1))
        wait_s = self._draw() * ceiling_ms / 1000
        # Spend no token on an attempt that the deadline would end at once.
        if wait_s >= left_s or not self._budget.spend():
            return None
        return wait_s


@dataclass(frozen=True)
class Counts:
    """Counts of a client.

    Attributes:
        calls: requested storefronts and searches.
        retries: attempts after a failure.
        hedges: second requests because the first was slow.
        hedges_won: hedges that answered first.
        staged: attempts at a generation on trial (split).
        shadows: copies of requests for a generation on trial (shadow).
        errors: failed calls, by `EndcapError.reason`.
        fallbacks: defaults returned by `storefront_or` and `search_or`, by reason of the failure.
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
    """Mutable counts. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, name: str, reason: str = "") -> None:
        """Increase a field of `Counts`, with a reason for fields that are counted by reason."""
        with self._lock:
            self._counts[name, reason] += 1

    def snapshot(self) -> Counts:
        """Return the present counts."""
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
    """The decisions of one client."""

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
        """Return the seconds after which a call of this model is hedged; None: never."""
        window = self._windows.get(model)
        if self._hedge is None or window is None or (value := window.value()) is None:
            return None
        return max(value, self._hedge.min_ms / 1000)

    def went_well(self, model: str, seconds: float) -> None:
        """Record a successful call."""
        self.budget.earn()
        if self._hedge is not None:
            if model not in self._windows:
                self._windows.setdefault(model, LatencyWindow(self._hedge.quantile, self._hedge.min_calls))
            self._windows[model].add(seconds)
