"""`endcap lint` on the command line."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from endcap_server.lint import PROFILES, Finding, RepositoryError, lint_repository

DEFAULT = Path("model_repository")


def add_lint_command(subparsers: Any) -> None:
    """Add `endcap lint` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "lint",
        help="check a model repository without a server",
        description="Check the configurations of a model repository, and the build around it, for what Triton would "
        "find only on loading, and more (docs/lint.md). Exit code 1 on errors.",
    )
    parser.add_argument(
        "repository",
        nargs="?",
        type=Path,
        default=DEFAULT,
        metavar="REPOSITORY",
        help="a model repository, or a build (default: %(default)s)",
    )
    parser.add_argument(
        "--profile", choices=PROFILES, help="check only what a server of this profile loads (default: every profile)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--strict", action="store_true", help="warnings fail too")
    parser.add_argument(
        "--skip-hashes", action="store_true", help="do not read the build's files to compare them with its manifest"
    )
    parser.set_defaults(run=_lint)


def _lint(arguments: argparse.Namespace) -> int:
    profiles = (arguments.profile,) if arguments.profile else PROFILES
    try:
        findings = lint_repository(arguments.repository, profiles, hashes=not arguments.skip_hashes)
    except RepositoryError as error:
        print(f"endcap lint: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(_document(findings), indent=1, ensure_ascii=False))
    else:
        for finding in findings:
            print(describe_finding(finding))
        print(_summary(findings))
    failing = findings if arguments.strict else [each for each in findings if each.severity == "error"]
    return 1 if failing else 0


def describe_finding(finding: Finding) -> str:
    """One line: place, what is wrong, why it matters, how to fix it, and the code."""
    code = finding.code
    return f"{_place(finding)}: {code.severity}: {finding.what} ({code.why}); {finding.mend} [{code.name}]"


def _place(finding: Finding) -> str:
    path = _short(finding.where.path)
    return f"{path}:{finding.where.line}" if finding.where.line else path


def _short(path: Path) -> str:
    """The path relative to the working folder, if that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _counts(findings: Sequence[Finding]) -> tuple[int, int]:
    errors = sum(finding.severity == "error" for finding in findings)
    return errors, len(findings) - errors


def _summary(findings: Sequence[Finding]) -> str:
    if not findings:
        return "ok"
    parts = [
        f"{number} {word}{'s' * (number != 1)}"
        for number, word in zip(_counts(findings), ("error", "warning"), strict=True)
        if number
    ]
    return ", ".join(parts)


def _document(findings: Sequence[Finding]) -> dict[str, Any]:
    errors, warnings = _counts(findings)
    return {
        "errors": errors,
        "warnings": warnings,
        "findings": [
            {
                "file": _short(finding.where.path),
                "line": finding.where.line or None,
                "severity": finding.severity,
                "code": finding.code.name,
                "what": finding.what,
                "why": finding.code.why,
                "mend": finding.mend,
            }
            for finding in findings
        ],
    }
