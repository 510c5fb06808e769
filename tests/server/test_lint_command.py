"""`endcap lint` on the command line: what it prints, its exit codes, and that our own repository is clean."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from endcap_server.lint.command import add_lint_command

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "model_repository"
LAUNCH = """
import argparse, sys
from endcap_server.lint.command import add_lint_command
parser = argparse.ArgumentParser()
add_lint_command(parser.add_subparsers())
arguments = parser.parse_args(["lint", *sys.argv[1:]])
sys.exit(arguments.run(arguments))
"""


def lint(*words: str, folder: Path = ROOT, python: str = sys.executable) -> tuple[int, str, str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("server", "client"))}
    done = subprocess.run(
        [python, "-c", LAUNCH, *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        encoding="utf-8",
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    shutil.copytree(SOURCE, tmp_path / "models")
    return tmp_path


def edit(shop: Path, name: str, old: str, new: str) -> None:
    path = shop / "models" / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_our_own_repository_is_clean() -> None:
    assert lint("--strict") == (0, "ok\n", "")


def test_it_runs_where_the_models_run() -> None:
    python = ROOT / ".venv-serving/bin/python"
    if not python.exists():
        pytest.skip("no serving environment")
    assert lint(python=str(python)) == (0, "ok\n", "")


def test_findings_are_sorted_and_say_where_what_why_and_how_to_mend(shop: Path) -> None:
    edit(shop, "theme/config.pbtxt", '"1" }', '"99" }')
    edit(shop, "search/config.pbtxt", 'model_name: "fusion"', 'model_name: "fussion"')
    edit(
        shop,
        "keywords/config.pbtxt",
        'min_keywords" value: { string_value: "2"',
        'min_keywords" value: { string_value: "9"',
    )
    status, out, err = lint("models", folder=shop)
    assert (status, err) == (1, "")
    assert out.splitlines() == [
        "models/keywords/config.pbtxt:22: warning: min_keywords is 9, and keywords 5 (one of the two has no effect); "
        "min_keywords at most keywords [W510]",
        "models/search/config.pbtxt:50: error: step 3 runs 'fussion', which does not exist "
        "(Triton refuses the ensemble, and takes the running one down); did you mean 'fusion'? [E302]",
        "models/theme/config.pbtxt:18: error: spare of theme is '99' (the model is refused on loading); "
        "expected less than or equal to 4 [E502]",
        "2 errors, 1 warning",
    ]


def test_warnings_fail_only_when_strict(shop: Path) -> None:
    edit(
        shop,
        "keywords/config.pbtxt",
        'min_keywords" value: { string_value: "2"',
        'min_keywords" value: { string_value: "9"',
    )
    assert lint("models", folder=shop)[0] == 0
    assert lint("models", "--strict", folder=shop)[0] == 1


def test_json_holds_the_same(shop: Path) -> None:
    edit(shop, "search/config.pbtxt", 'model_name: "fusion"', 'model_name: "fussion"')
    status, out, _ = lint("models", "--json", folder=shop)
    document = json.loads(out)
    assert (status, document["errors"], document["warnings"]) == (1, 1, 0)
    assert document["findings"] == [
        {
            "file": "models/search/config.pbtxt",
            "line": 50,
            "severity": "error",
            "code": "E302",
            "what": "step 3 runs 'fussion', which does not exist",
            "why": "Triton refuses the ensemble, and takes the running one down",
            "mend": "did you mean 'fusion'?",
        }
    ]
    assert json.loads(lint("--json")[1]) == {"errors": 0, "warnings": 0, "findings": []}


def test_a_profile_is_checked_alone(shop: Path) -> None:
    edit(shop, "nearest/configs/gpu.pbtxt", '"256"', '"0"')
    assert lint("models", "--profile", "cpu", folder=shop)[0] == 0
    assert lint("models", "--profile", "gpu", folder=shop)[0] == 1


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_there_is_nothing_to_check(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    status, out, err = lint(name, folder=tmp_path)
    assert (status, out) == (1, "")
    assert err.startswith(f"endcap lint: {name}: expected")
    assert "Traceback" not in err


def test_it_is_a_command_of_endcap() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, name = project["project"]["entry-points"]["endcap.commands"]["lint"].partition(":")
    assert getattr(importlib.import_module(module), name) is add_lint_command
