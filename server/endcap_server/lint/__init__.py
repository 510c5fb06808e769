"""`endcap lint`: finds in a model repository, without a server, what Triton would find on loading it, and more."""

from collections.abc import Iterable
from pathlib import Path

# Importing a module of checks registers them.
from endcap_server.lint import (
    checks_artefacts,
    checks_cache,
    checks_ensembles,
    checks_files,
    checks_models,
    checks_parameters,
)
from endcap_server.lint.finding import CODES, Code, Finding, Where
from endcap_server.lint.registry import CHECKS
from endcap_server.lint.repository import PROFILES, Repository, RepositoryError, View, read_repository

__all__ = [
    "CODES",
    "PROFILES",
    "Code",
    "Finding",
    "Repository",
    "RepositoryError",
    "View",
    "Where",
    "checks_artefacts",
    "checks_cache",
    "checks_ensembles",
    "checks_files",
    "checks_models",
    "checks_parameters",
    "lint_repository",
    "read_repository",
]


def lint_repository(folder: Path, profiles: Iterable[str] = PROFILES, *, hashes: bool = True) -> list[Finding]:
    """Check a model repository, or the one in a build.

    Args:
        folder: The repository, or a build with a `repository/`.
        profiles: The profiles to check it for; what several have in common is found once.
        hashes: Whether to read the files of a build whole, to compare them with its manifest.

    Returns:
        What was found, by file and line.

    Raises:
        RepositoryError: there is no repository in `folder`.
    """
    repository = read_repository(folder)
    found: dict[tuple[Where, str, str], Finding] = {}
    for profile in profiles:
        view = View(repository, profile, hashes)
        for check in sorted(CHECKS, key=lambda check: check.rank):
            view.findings += list(check.run(view))
        for finding in view.findings:
            found.setdefault((finding.where, finding.code.name, finding.what), finding)
    return sorted(found.values(), key=lambda finding: finding.sort_key)
