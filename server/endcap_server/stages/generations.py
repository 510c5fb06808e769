"""A tiny table, shared by all stage processes of a server, that makes cached answers expire.

Triton's response cache keeps whatever a stage answered, also what it answered while an engine was down. The number of a
request's generation is an input of the cached stages and so part of their cache key: a stage that falls back raises it,
and the next equal request misses the cache and is generated. A time to live works the same way, by time buckets.
"""

import hashlib
import mmap
import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SLOTS = 4096
"""Counters; keys share one by chance, which costs a needless miss and never a stale answer."""

FILE_NAME = "generations.i64"
_BUCKET_SHIFT = 32


def run_folder() -> Path:
    """``$ENDCAP_RUN_DIR``, or a private temporary folder that the processes of one parent (the server) share.

    Raises:
        PermissionError: The temporary folder exists and belongs to somebody else.
    """
    if configured := os.environ.get("ENDCAP_RUN_DIR"):
        folder = Path(configured)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder = Path(tempfile.gettempdir()) / f"endcap-{os.getuid()}-{os.getppid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid() or stat.S_IMODE(folder.stat().st_mode) & 0o022:
        raise PermissionError(f"{folder}: expected a private folder of this user; remove it or set ENDCAP_RUN_DIR")
    return folder


class Generations:
    """Generation numbers by key, in a file that several processes map and write.

    Two processes that raise the same counter at the same time may raise it once only: it has changed, and that is all
    that counts.

    Args:
        folder: Where the table is kept; :func:`run_folder` by default.
        ttl_s: Seconds after which a key's generation changes by itself; 0 never.
        clock: Seconds since the epoch.
    """

    def __init__(self, folder: Path | None = None, ttl_s: float = 0.0, clock: Callable[[], float] = time.time):
        self.ttl_s = ttl_s
        self.clock = clock
        path = (folder or run_folder()) / FILE_NAME
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # Growing a file fills it with zeros, and to the same size twice does nothing: no race between processes.
            os.ftruncate(descriptor, SLOTS * 8)
            self._map = mmap.mmap(descriptor, SLOTS * 8)
        finally:
            os.close(descriptor)
        self._counters = np.frombuffer(self._map, dtype=np.int64)

    def current(self, key: bytes) -> tuple[int, int]:
        """(hash of ``key``, its generation now)."""
        hashed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
        generation = int(self._counters[hashed % SLOTS]) & ((1 << _BUCKET_SHIFT) - 1)
        if self.ttl_s > 0:
            # The hash shifts each key's bucket, so that not all pages expire in the same moment.
            offset = (hashed % 1009) / 1009
            generation |= int(self.clock() / self.ttl_s + offset) << _BUCKET_SHIFT
        return hashed, generation

    def bump(self, hashed: int) -> None:
        """Let the next request with this key hash miss the cache."""
        self._counters[hashed % SLOTS] += 1

    def bump_all(self) -> None:
        """Let no answer be used that is cached by now."""
        self._counters += 1
