"""Why an answer is not what was asked for: codes that travel beside the sentences for people.

Each stage declares its own as enums (what its checks count, why it degrades, why it refuses). Metrics take their labels
from the enums, and nobody reads a sentence to find out what happened.
"""

from enum import StrEnum

NO_ENGINE = "none"
"""Stands for the engine where a stage degrades by itself."""


class Source(StrEnum):
    """Where a stage's answer comes from."""

    COMPUTED = "computed"
    GENERATED = "generated"
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


class NoCodes(StrEnum):
    """Of a stage that has none."""
