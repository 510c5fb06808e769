"""What a wheel of endcap has to hold: without the checkout it builds a shop and serves it."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from endcap_builders.step import build_context
from endcap_builders.steps.repository import RepositorySettings, run
from endcap_server.models import DECLARATIONS, MODELS
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
DATA = (".txt", ".toml", ".json", ".jinja", ".css", ".js", ".svg")
PACKAGES = {
    "endcap_client": "client",
    "endcap_server": "server",
    "endcap_builders": "builders",
    "endcap_studio": "server",
}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Files of the wheel, made from a copy of the sources: a build leaves folders beside them."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run([sys.executable, "-c", command], cwd=folder / "source", check=True, capture_output=True)
    (wheel,) = folder.glob("endcap-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_module_and_data_file(names: set[str]) -> None:
    for package, place in PACKAGES.items():
        folder = ROOT / place
        for path in (folder / package).rglob("*"):
            if path.suffix == ".py" or path.suffix in DATA:
                assert path.relative_to(folder).as_posix() in names


def test_the_wheel_names_the_command(names: set[str]) -> None:
    assert any(name.endswith(".dist-info/entry_points.txt") for name in names)


def test_a_repository_is_assembled_without_a_checkout(tmp_path: Path) -> None:
    context = build_context(tmp_path, tmp_path, tmp_path / "repository", Console(file=io.StringIO()))
    assert run(context, RepositorySettings())["models"] == len(MODELS)
    assert {path.parts[-3] for path in (tmp_path / "repository").glob("*/1/model.py")} == set(DECLARATIONS)
    assert all((tmp_path / "repository" / name / "1").is_dir() for name in MODELS)
