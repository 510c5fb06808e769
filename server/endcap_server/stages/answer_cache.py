"""Caches of what a stage computed, in the stage's process.

Triton's response cache stores whatever a model sent, also the empty answer of a cancelled request. Here, the stage
itself stores its answers, and only complete ones.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from pydantic import Field

from endcap_server.declared.parameters import ModelParameters

T = TypeVar("T")

LONGEST_DOCUMENT = 16_384
"""Characters of the longest answer that is cached; a bound on memory."""


class CacheParameters(ModelParameters):
    """Parameters of stages with a cache of answers."""

    cache_entries: int = Field(10_000, ge=0, le=10_000_000, description="generated answers that are kept, 0: none")
    cache_ttl_s: float = Field(3600.0, ge=0, le=10_000_000, description="seconds that one is kept, 0: no limit")


@dataclass(frozen=True)
class CachedAnswer:
    """One answer.

    Attributes:
        document: JSON object that the stage handed on.
        status: The stage's status, without times and source.
    """

    document: str
    status: Mapping[str, Any]


class Recent(Generic[T]):
    """The latest values, by the content that determines them. Thread-safe.

    Args:
        entries: Most values; 0: none.
        ttl_s: Lifetime of a value in seconds; 0: no limit.
        clock: Seconds since any start.
    """

    def __init__(self, entries: int, ttl_s: float = 0.0, clock: Callable[[], float] = time.monotonic):
        self._entries, self._ttl_s, self._clock = entries, ttl_s, clock
        self._values: OrderedDict[bytes, tuple[float, T]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, content: bytes) -> T | None:
        """The value for this content; None if there is none, or it is too old."""
        if not self._entries:
            return None
        key = _key(content)
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            made_s, value = found
            if self._ttl_s and self._clock() - made_s >= self._ttl_s:
                del self._values[key]
                return None
            self._values.move_to_end(key)
            return value

    def put(self, content: bytes, value: T) -> None:
        """Store a complete value; evict the least recently used one if the cache is full."""
        if not self._entries:
            return
        key = _key(content)
        with self._lock:
            self._values[key] = self._clock(), value
            self._values.move_to_end(key)
            if len(self._values) > self._entries:
                self._values.popitem(last=False)


class AnswerCache(Recent[CachedAnswer]):
    """The latest generated answers."""

    def put(self, content: bytes, value: CachedAnswer) -> None:
        """Store a complete answer, unless it is longer than `LONGEST_DOCUMENT`."""
        if len(value.document) <= LONGEST_DOCUMENT:
            super().put(content, value)


def _key(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()
