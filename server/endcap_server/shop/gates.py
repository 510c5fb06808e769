"""Which models of a build are installed: those that did better, when built, than the simple thing that else serves.

The build's step `gates` writes `gates/gates.json`: model -> `{"installed": bool, "serves": name of the simple thing}`.
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
    """Whether a model serves, and by what name the simple thing is called that serves if it does not."""

    installed: bool
    serves: str


def read_verdicts(build: Path) -> Mapping[str, Verdict]:
    """What the build decided, by model; nothing for a build without the step, whose models are all installed.

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
