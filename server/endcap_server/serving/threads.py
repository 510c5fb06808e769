"""Concurrent requests of one model: each needs a thread in the server and one in the model."""

import os

_OF_A_CORE = 8
_MOST = 64


def model_threads() -> int:
    """Threads of the server for each Python model's calls of engines and answers (`thread-pool-size`).

    Threads are used in rotation, so with more than necessary, the memory of each leaves the CPU's caches. On two cores,
    16 instead of 64 reduce the overhead of a storefront's five steps by 0.1 to 0.15 ms.
    """
    return min(_MOST, _OF_A_CORE * len(os.sched_getaffinity(0)))


def call_threads() -> int:
    """Concurrent calls of engines by a stage; the remaining threads are for its answers."""
    return model_threads() * 3 // 4
