"""What counts as a step's own code: what it reaches, and nothing that changes no result."""

import importlib
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from endcap_builders.code_digest import code_digest
from endcap_builders.steps import all_steps

STEP = '''
"""A step."""
from {name}.helpers import used, words_file

class Options:
    """Settings."""
    limit: int = Field(3, description="what it limits")

def run(number):
    """Doc."""
    from {name} import late
    # A comment.
    return late.answer(used(number)), words_file()
'''
HELPERS = """
from pathlib import Path
LIMIT = 3
def used(number):
    return number + LIMIT
def unused(number):
    return number
def words_file():
    return Path(__file__).with_name("words.txt").read_text()
"""
LATE = """
from {name}.step import run
def answer(number):
    return number
"""
Package = tuple[str, Path]
numbers = count()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    name = f"own_package_{next(numbers)}"
    folder = tmp_path / name
    folder.mkdir()
    files = {"__init__.py": "", "step.py": STEP, "helpers.py": HELPERS, "late.py": LATE, "words.txt": "a b"}
    for file, text in files.items():
        (folder / file).write_text(text.replace("{name}", name), encoding="utf-8")
    (folder / "fields.py").write_text("def Field(value, description): return value\n", encoding="utf-8")
    step = folder / "step.py"
    step.write_text(f"from {name}.fields import Field\n" + step.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name, folder
    for module in [each for each in sys.modules if each.split(".")[0] == name]:
        del sys.modules[module]


def digest(package: Package) -> str:
    module = importlib.import_module(f"{package[0]}.step")
    return code_digest(module.run, module.Options, packages=(package[0],))


def replace(file: str, old: str, new: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        text = (folder / file).read_text(encoding="utf-8")
        assert old in text
        (folder / file).write_text(text.replace(old, new), encoding="utf-8")

    return act


@pytest.mark.parametrize(
    "change",
    [
        replace("step.py", "# A comment.", "# A comment that says more."),
        replace("step.py", '"""Doc."""', '"""Doc, reworded."""'),
        replace("step.py", '"""Settings."""', '"""The settings."""'),
        replace("step.py", "what it limits", "the limit"),
        replace("helpers.py", "\ndef used", "\n\n\ndef used"),
        replace("helpers.py", "    return number\n", "    return -number\n"),
    ],
    ids=["comment", "docstring", "docstring of a class", "help", "layout", "a function that it does not reach"],
)
def test_what_changes_no_result_changes_no_digest(package: Package, change: Callable[[Path], None]) -> None:
    before = digest(package)
    change(package[1])
    assert digest(package) == before


@pytest.mark.parametrize(
    "change",
    [
        replace("step.py", "limit: int = Field(3", "limit: int = Field(4"),
        replace("step.py", "used(number))", "used(number + 1))"),
        replace("helpers.py", "number + LIMIT", "number - LIMIT"),
        replace("helpers.py", "LIMIT = 3", "LIMIT = 4"),
        replace("late.py", "return number", "return -number"),
        replace("words.txt", "a b", "a b c"),
    ],
    ids=["a default", "the step", "what it calls", "a constant", "a late import", "a data file"],
)
def test_what_changes_a_result_changes_the_digest(package: Package, change: Callable[[Path], None]) -> None:
    before = digest(package)
    change(package[1])
    assert digest(package) != before


def test_every_step_has_a_digest_of_its_own() -> None:
    steps = all_steps()
    digests = {code_digest(step.run, step.settings, *step.code) for step in steps}
    assert len(digests) == len(steps)
