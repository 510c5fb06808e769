"""The interface of teachers: the rule-based merchandiser, or an LLM."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from endcap_server.shop.prompts import ThemeDraft, shopper_text


@dataclass(frozen=True)
class Profile:
    """The input of a page: exactly the contents of the shopper text, so that a student can learn from the text."""

    likes: tuple[tuple[str, ...], ...] = ()  # lists of names of topics that suit one placement each, best first
    brands: tuple[str, ...] = ()
    session: tuple[str, ...] = ()  # search texts, oldest first
    season: str = ""
    campaign: str = ""
    due: tuple[str, ...] = ()  # names of topics that the shopper probably needs again
    new: frozenset[str] = frozenset()  # names in `likes` that the shopper has not bought and will probably buy

    def text(self) -> str:
        """The canonical shopper text."""
        return shopper_text(self.likes, self.brands, self.session, self.season, self.campaign, self.due, self.new)

    @property
    def bought(self) -> list[str]:
        """Names of the topics that the shopper buys."""
        return [name for names in self.likes for name in names if name not in self.new]


@dataclass(frozen=True)
class ThemeTask:
    """Write this many placements for this shopper."""

    profile: Profile
    placements: int


@dataclass(frozen=True)
class KeywordRequest:
    """Choose this many of the candidate keywords (nearest first) for a theme."""

    theme: ThemeDraft
    candidates: tuple[str, ...]
    choose: int


class CopyTeacher(Protocol):
    """Writes the answers from which students learn. Both methods answer in the order of their requests.

    An empty answer means that the teacher has none; the example is left out.
    """

    def themes(self, requests: Sequence[ThemeTask]) -> Iterator[list[ThemeDraft]]:
        """Write an ordered page of themes for each request."""
        ...

    def choose_keywords(self, requests: Sequence[KeywordRequest]) -> Iterator[list[str]]:
        """Choose among the candidates of each request, best first."""
        ...
