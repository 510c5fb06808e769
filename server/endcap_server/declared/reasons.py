"""Why an answer differs from the normal one: codes beside the sentences for people.

Each stage declares its codes as enums: what its checks count, why it degrades, why it refuses. Metrics take their
labels from these enums, and no code parses sentences.
"""

import re
from enum import StrEnum

NO_ENGINE = "none"
"""Stands for the engine if a stage degrades without the fault of an engine."""


class Source(StrEnum):
    """Where a stage's answer comes from."""

    COMPUTED = "computed"
    GENERATED = "generated"
    PREPARED = "prepared"
    CACHED = "cached"
    FALLBACK = "fallback"


class Cause(StrEnum):
    """Why an engine's answer is missing or cannot be used."""

    LATE = "late"
    """No answer, or no complete one, before the deadline."""
    NO_TIME = "no_time"
    """The budget left no time to ask."""
    HANGS = "hangs"
    """Too many earlier requests are unanswered."""
    UNAVAILABLE = "unavailable"
    """It is not loaded or not ready."""
    FAILED = "failed"
    """It answered an error, or something that the stage cannot read."""


_MARKED = re.compile(r"\[(\w+)\] (.*)", re.DOTALL)


def marked(cause: Cause, message: str) -> str:
    """An engine's error message with its cause in front: "[late] the deadline passed".

    The stage gets only the message: Triton 24.10 reports every error of a BLS call as INTERNAL.
    """
    return f"[{cause}] {message}"


def read_marked(message: str) -> tuple[Cause, str]:
    """(cause, message) of a text from :func:`marked`.

    A message without a cause comes from the server: the engine is not loaded, or its process has died.
    """
    found = _MARKED.fullmatch(message)
    if found is None or found[1] not in {*Cause}:
        return Cause.UNAVAILABLE, message
    return Cause(found[1]), found[2]


class NoCodes(StrEnum):
    """The enum of a stage without codes."""
