"""One prepared page, and how far a shopper has moved on since it was made."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

MOST_DRIFT = 8
"""Most new purchases and searches that can be counted."""
_TAIL = 16
"""Newest events of a history that identify it."""
_SEARCH_BYTES, _HISTORY_BYTES = 4, 8


class PreparedTheme(BaseModel):
    """A theme that passed every check.

    Attributes:
        title: Of the placement.
        concepts: What it is about; for a theme about a search, the first is that search.
        keywords: Known keywords, best first.
        ranked: Whether LLM 2 ordered them; otherwise they are the nearest ones.
    """

    model_config = ConfigDict(frozen=True)

    title: str
    concepts: tuple[str, ...]
    keywords: tuple[str, ...]
    ranked: bool


class PreparedPage(BaseModel):
    """The themes of one shopper.

    Attributes:
        made_s: When it was made, in seconds since 1970.
        placements: Placements that it was made for.
        history: Digest of the shopper's history at that time.
        searches: Digests of the searches of the session at that time.
        campaign: The campaign that LLM 1 was told, "" if none.
        versions: Versions of the catalogue and the models that made it.
        themes: The best first.
    """

    model_config = ConfigDict(frozen=True)

    made_s: float
    placements: int
    history: str
    searches: tuple[str, ...] = ()
    campaign: str = ""
    versions: dict[str, str]
    themes: tuple[PreparedTheme, ...]

    @classmethod
    def read(cls, value: bytes) -> Self | None:
        """Read a value of a store; None if it is no page of this version of endcap."""
        try:
            return cls.model_validate_json(value)
        except ValidationError:
            return None

    def value(self) -> bytes:
        """The page as a value of a store."""
        return self.model_dump_json().encode()

    def moved_on(self, histories: Sequence[str], searches: Iterable[str]) -> int | None:
        """How many purchases and searches are new since the page was made; None: too many to count, or another history.

        Args:
            histories: Digests of the history now and as it was before each of its latest events; see
                :func:`history_digests`.
            searches: Digests of the searches of the session; see :func:`search_digests`.
        """
        if self.history not in histories:
            return None
        return histories.index(self.history) + len(set(searches) - set(self.searches))


def history_digests(history: Sequence[str]) -> tuple[str, ...]:
    """Digests of a history as it is, without its newest event, and so on for `MOST_DRIFT` events.

    The newest 16 events identify a history, so a caller may send a window of it that is larger than that.

    Args:
        history: Product ids, oldest first.
    """
    ends = range(len(history), max(-1, len(history) - MOST_DRIFT - 1), -1)
    return tuple(_digest("\0".join(history[max(0, end - _TAIL) : end]), _HISTORY_BYTES) for end in ends)


def search_digests(session: Sequence[str]) -> tuple[str, ...]:
    """Digests of the newest `MOST_DRIFT` + 1 distinct searches of a session, newest first."""
    latest = dict.fromkeys(text.casefold() for text in reversed(session))
    return tuple(_digest(text, _SEARCH_BYTES) for text in list(latest)[: MOST_DRIFT + 1])


def _digest(text: str, size: int) -> str:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=size).hexdigest()
