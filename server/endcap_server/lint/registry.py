"""The checks of a repository, registered by the modules that hold them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from endcap_server.lint.finding import Code, Finding
from endcap_server.lint.repository import View

CHECKS: list["Check"] = []
"""Every check of a repository."""


@dataclass(frozen=True)
class Check:
    """A function from one profile's view of a repository to findings."""

    run: Callable[[View], Iterable[Finding]]
    codes: tuple[Code, ...]

    @property
    def rank(self) -> str:
        """Checks run by the numbers of their codes: causes before what follows from them."""
        return min(each.name[1:] for each in self.codes)


def check(*codes: Code) -> Callable[[Callable[[View], Iterator[Finding]]], Callable[[View], Iterator[Finding]]]:
    """Register a check and the codes that it may report."""

    def register(run: Callable[[View], Iterator[Finding]]) -> Callable[[View], Iterator[Finding]]:
        CHECKS.append(Check(run, codes))
        return run

    return register
