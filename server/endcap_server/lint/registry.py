"""The registry of checks; the modules of checks register theirs."""

from collections.abc import Callable, Iterator

from endcap_server.lint.finding import Code, Finding
from endcap_server.lint.repository import Config, View

Check = Callable[[View], Iterator[Finding]]
CHECKS: list[tuple[str, Check]] = []
"""Every check, with the lowest number of its codes."""


def check(*codes: Code) -> Callable[[Check], Check]:
    """Register a check of one profile's view, and the codes that it may report."""

    def register(run: Check) -> Check:
        CHECKS.append((min(code.name[1:] for code in codes), run))
        return run

    return register


def check_each(*codes: Code, ensembles: bool = False) -> Callable[[Callable[[View, Config], Iterator[Finding]]], Check]:
    """Register a check of each configuration, or of each ensemble's."""

    def register(run: Callable[[View, Config], Iterator[Finding]]) -> Check:
        def run_all(view: View) -> Iterator[Finding]:
            for config in view.ensembles if ensembles else view.configs.values():
                yield from run(view, config)

        return check(*codes)(run_all)

    return register


def run_checks(view: View) -> list[Finding]:
    """Findings of all checks in a view. They run in the order of their codes' numbers: causes before consequences."""
    for _, run in sorted(CHECKS, key=lambda each: each[0]):
        view.findings += list(run(view))
    return view.findings
