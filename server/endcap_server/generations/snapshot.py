"""Snapshots of a generation's files: configurations are copied, artefacts are hard-linked.

A hard link needs no space and keeps the file when its name is removed. A generation therefore does not change when its
build is built again or removed. (Builds replace their files and never write into them.)
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from endcap_server.exposures.record import FOLDER as EXPOSURES
from endcap_server.lint.repository import CONFIG
from endcap_server.prepared.stores import FOLDER as PREPARED
from endcap_server.serving.errors import ApplyError
from endcap_server.shop.facts import FOLDER as FACTS

REPOSITORY = "repository"
_NOT_SERVED = {REPOSITORY, "logs", "serving", FACTS, EXPOSURES, PREPARED}


def source_folders(source: Path, artefacts: Path) -> tuple[Path, Path]:
    """(model repository, build with the artefacts) of a source.

    Args:
        source: A build, or a model repository.
        artefacts: The build with the artefacts, if the source is a model repository.

    Raises:
        ApplyError: it is neither.
    """
    if list((source / REPOSITORY).glob(f"*/{CONFIG}")):
        return source / REPOSITORY, source
    if list(source.glob(f"*/{CONFIG}")):
        # The repository of a build: the artefacts are beside it.
        beside = source.resolve().parent
        return source, beside if (beside / "manifest.json").exists() else artefacts
    raise ApplyError(
        f"{source}: expected a build with a {REPOSITORY}/, or a model repository with */{CONFIG}, got neither; "
        "name one with --from"
    )


def take_snapshot(repository: Path, artefacts: Path, folder: Path) -> None:
    """Lay out a build in `folder`: copies of the repository's models, links to the artefacts.

    Raises:
        ApplyError: a file cannot be read, or the disk is full.
    """
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        for path in _artefacts(artefacts):
            _link(path, new / path.relative_to(artefacts))
        for model in sorted(repository.iterdir()):
            if model.is_dir() and not model.name.startswith((".", "__")):
                ignored = shutil.ignore_patterns("__pycache__", ".*")
                shutil.copytree(model, new / REPOSITORY / model.name, ignore=ignored)
                _version_folder(new / REPOSITORY / model.name)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise ApplyError(f"{artefacts} cannot be kept in {folder}: {error}; make it readable, or free space") from None


def _artefacts(build: Path) -> Iterator[Path]:
    for top in sorted(build.iterdir()):
        if top.name in _NOT_SERVED or top.name.startswith("."):
            continue
        if top.is_file():
            yield top
        for folder, _, names in os.walk(top, followlinks=True) if top.is_dir() else ():
            yield from (Path(folder) / name for name in sorted(names))


def _link(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    real = path.resolve(strict=True)
    try:
        os.link(real, place)
    except OSError:  # another file system, or a file of another user
        place.symlink_to(real)


def _version_folder(model: Path) -> None:
    """An ensemble needs an empty version folder, which version control does not keep."""
    config = model / CONFIG
    if config.is_file() and not any(each.name.isdigit() for each in model.iterdir()):
        text = config.read_text(encoding="utf-8", errors="replace")
        if "ensemble" in text:
            (model / "1").mkdir()
