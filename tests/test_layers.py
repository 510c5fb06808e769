"""Imports inside the server go one way: the contracts in pyproject.toml hold."""

from pathlib import Path

import pytest
from importlinter.api import read_configuration
from importlinter.application.use_cases import lint_imports
from importlinter.configuration import configure


def test_the_contracts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[1]
    monkeypatch.chdir(root)
    configure()
    assert read_configuration(str(root / "pyproject.toml"))
    assert lint_imports(config_filename=str(root / "pyproject.toml"), cache_dir=None), "run lint-imports"
