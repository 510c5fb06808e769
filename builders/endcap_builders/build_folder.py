"""The folder of a build: its lock, hashes of files as in the manifest, and the replacement of a step's folder."""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = ".lock"


@contextmanager
def locked(build: Path) -> Iterator[None]:
    """Keep other processes from building in a folder; the lock ends with the process.

    Raises:
        BlockingIOError: another process builds in it.
    """
    descriptor = os.open(build / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            # Closed only, it would stay with workers that a step has forked and that outlive it, as torch.export does.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def utc_now() -> str:
    """The present time in UTC to the second, as in the manifest."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def file_hashes(folder: Path) -> dict[str, str]:
    """File -> the first 16 hexadecimal digits of its SHA-256, as in the manifest."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            hashes[str(path.relative_to(folder))] = file_digest(path)
    return hashes


def file_digest(path: Path) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def replace_folder(new: Path, place: Path) -> None:
    """Replace `place` by `new`; a server that has mapped the old files can still read them."""
    old = _old(place)
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(place: Path) -> None:
    """Undo a `replace_folder` that was killed halfway: the manifest still describes the old files."""
    if not place.exists() and _old(place).is_dir():
        _old(place).rename(place)


def _old(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")
