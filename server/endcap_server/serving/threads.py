"""How many requests of one model the server works on at once: a thread each, both in the server and in the model."""

import os

_OF_A_CORE = 8
_MOST = 64


def model_threads() -> int:
    """Threads of the server for each Python model's calls of engines and answers (`thread-pool-size`).

    They are woken in turn, so more than are needed only make the memory of each one colder: on two cores 16 instead of
    64 take 0.1 to 0.15 ms from what the five steps of a storefront add.
    """
    return min(_MOST, _OF_A_CORE * len(os.sched_getaffinity(0)))


def call_threads() -> int:
    """Calls of engines that a stage makes at once: some threads are left for its answers."""
    return model_threads() * 3 // 4
