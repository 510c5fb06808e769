"""Findings of checks, and their codes.

A code is declared once, beside the check that reports it, with what is wrong and why it matters. Messages, `--json` and
`docs/lint.md` use this declaration.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CODES: dict[str, "Code"] = {}
"""Every code by its name."""


@dataclass(frozen=True)
class Where:
    """A place in a file; line 0 means the whole file or folder."""

    path: Path
    line: int = 0


@dataclass(frozen=True)
class Finding:
    """One problem at one place."""

    where: Where
    code: "Code"
    what: str
    mend: str

    @property
    def severity(self) -> str:
        """error or warning."""
        return self.code.severity

    @property
    def sort_key(self) -> tuple[str, int, str, str]:
        """Sort key: file, line and code."""
        return (str(self.where.path), self.where.line, self.code.name, self.what)


@dataclass(frozen=True)
class Code:
    """A kind of finding: `E...` is an error, `W...` a warning."""

    name: str
    title: str
    """What is wrong, in general."""
    why: str
    """Why it matters."""

    @property
    def severity(self) -> str:
        """error or warning."""
        return "error" if self.name.startswith("E") else "warning"

    def at(self, where: Where, what: str, mend: str) -> Finding:
        """A finding of this kind."""
        return Finding(where, self, what, mend)


def code(name: str, title: str, why: str) -> Code:
    """Declare a code.

    Raises:
        ValueError: the name is taken.
    """
    if name in CODES:
        raise ValueError(f"code {name}: expected a new name, got that of {CODES[name].title!r}")
    CODES[name] = Code(name, title, why)
    return CODES[name]


def closest(name: str, known: Iterable[str]) -> str:
    """The name that was probably meant, or an empty text."""
    by_fold = {each.casefold(): each for each in known}
    found = difflib.get_close_matches(name.casefold(), by_fold, n=1, cutoff=0.6)
    return by_fold[found[0]] if found else ""


def did_you_mean(name: str, known: Iterable[str], kind: str) -> str:
    """Advice for an unknown name: the nearest known one, else all known ones."""
    names = sorted(known)
    if meant := closest(name, names):
        return f"did you mean {meant!r}?"
    return f"the {kind} are {', '.join(names)}" if names else f"there are no {kind}"
