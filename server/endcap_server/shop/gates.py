"""Which models of a build are installed: those that were better than a simple baseline when they were built.

The build's step `gates` writes `gates/gates.json`: model -> `{"installed": bool, "serves": name of the baseline}`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

GATES_FOLDER, GATES_FILE = "gates", "gates.json"


class GatesError(ValueError):
    """The file cannot be read; the message says what to do."""


@dataclass(frozen=True)
class Verdict:
    """Whether a model serves, and the name of the baseline that serves otherwise."""

    installed: bool
    serves: str


def read_verdicts(build: Path) -> Mapping[str, Verdict]:
    """The build's decisions, by model. A build without the step `gates` has none; all of its models are installed.

    Raises:
        GatesError: the file is damaged.
    """
    path = build / GATES_FOLDER / GATES_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): Verdict(bool(each["installed"]), str(each["serves"])) for name, each in document.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GatesError(f"{path}: expected what is installed, got {error!r}; run endcap build gates") from error


def is_installed(build: Path, model: str) -> bool:
    """Whether a model of the build serves."""
    verdict = read_verdicts(build).get(model)
    return verdict is None or verdict.installed
