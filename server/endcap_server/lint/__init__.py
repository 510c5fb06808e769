"""`endcap lint`: checks a model repository without a server, for what Triton finds on loading, and more."""

from collections.abc import Iterable
from pathlib import Path

from endcap_server.lint import (  # noqa: F401 - importing a module of checks registers them
    checks_artefacts,
    checks_ensembles,
    checks_files,
    checks_models,
    checks_parameters,
)
from endcap_server.lint.finding import CODES, Finding, Where
from endcap_server.lint.registry import run_checks
from endcap_server.lint.repository import PROFILES, RepositoryError, View, read_repository

__all__ = [
    "CODES",
    "PROFILES",
    "Finding",
    "RepositoryError",
    "View",
    "lint_repository",
    "read_repository",
    "run_checks",
]


def lint_repository(folder: Path, profiles: Iterable[str] = PROFILES, *, hashes: bool = True) -> list[Finding]:
    """Check a model repository, or the one in a build.

    Args:
        folder: The repository, or a build with a `repository/`.
        profiles: The profiles to check it for; a finding of several profiles is reported once.
        hashes: Whether to compare hashes of a build's files with its manifest.

    Returns:
        Findings, by file and line.

    Raises:
        RepositoryError: there is no repository in `folder`.
    """
    repository = read_repository(folder)
    found: dict[tuple[Where, str, str], Finding] = {}
    for profile in profiles:
        for finding in run_checks(View(repository, profile, hashes)):
            found.setdefault((finding.where, finding.code.name, finding.what), finding)
    return sorted(found.values(), key=lambda finding: finding.sort_key)
