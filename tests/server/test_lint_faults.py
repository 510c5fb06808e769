"""Every faulty edit of the table is found by lint: the right code at the right file and line, and nothing else."""

import shutil
from pathlib import Path

import pytest
from endcap_server.lint import CODES, lint_repository
from lint_faults import FAULTS, Expected, Fault

SOURCE = Path(__file__).resolve().parents[2] / "model_repository"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    copy = tmp_path / "models"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def line_of(repository: Path, expected: Expected) -> int:
    _, name, place = expected
    if isinstance(place, int):
        return place
    lines = (repository / name).read_text(encoding="utf-8").split("\n")
    found = [number for number, line in enumerate(lines, 1) if place.rstrip("\n") in line + "\n"]
    if place.endswith("\n"):
        found = [number for number in found if lines[number - 1].endswith(place.rstrip("\n"))]
    assert found, f"{place!r} is not in {name}"
    return found[0]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_is_found_where_it_is(fault: Fault, repository: Path) -> None:
    for name, old, new in fault.edits:
        path = repository / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
    if fault.act:
        fault.act(repository)
    found = {
        (finding.code.name, str(finding.where.path.relative_to(repository)), finding.where.line)
        for finding in lint_repository(repository)
    }
    assert found == {(code, name or ".", line_of(repository, (code, name, place))) for code, name, place in fault.finds}


def test_there_are_enough_faults() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 40


def test_every_code_is_tried_or_told_why_not() -> None:
    # Of builds: test_lint_artefacts.py. E316: test_lint_ensembles.py, where models batch. W204: there too.
    elsewhere = {"E601", "E602", "E603", "E604", "W605", "E316", "W204"}
    tried = {code for fault in FAULTS for code, _, _ in fault.finds}
    assert tried | elsewhere == CODES.keys()
    assert not tried & elsewhere
