"""Where fetched models lie, and whether one is there."""

import hashlib
import importlib.util
import json
import os
from dataclasses import asdict
from pathlib import Path

from endcap_builders.pretrained.models import PretrainedModel
from endcap_builders.step import BuildError

VARIABLE = "ENDCAP_MODELS"
RECORD = "endcap-model.json"
"""In the folder of a fetched model: what it was made of, and the size of each file."""


class ModelError(BuildError):
    """A pretrained model is not there, is damaged, or cannot be fetched; the message says what to do."""


def models_folder() -> Path:
    """Folder of fetched models: `ENDCAP_MODELS`, or ``endcap/models`` in the user's cache (XDG)."""
    if given := os.environ.get(VARIABLE):
        return Path(given).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # By the XDG specification, relative paths are to be ignored.
    base = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return base / "endcap" / "models"


def installed(model: PretrainedModel) -> Path | None:
    """The checkpoint in an installed package; its code is not imported."""
    spec = importlib.util.find_spec(model.module) if model.module else None
    folder = Path(spec.origin).parent / "model" if spec is not None and spec.origin else None
    return folder if folder is not None and (folder / "config.json").is_file() else None


def location(model: PretrainedModel) -> Path:
    """Where the checkpoint is, or would be after `endcap models fetch`."""
    return installed(model) or models_folder() / model.name


def damage(model: PretrainedModel) -> str:
    """Why the checkpoint cannot be used; "" if it can.

    A fetched folder appears under its name only when it is complete. Sizes tell whether somebody changed it since.
    """
    if installed(model):
        return ""
    folder = models_folder() / model.name
    if not folder.exists():
        return "it is not fetched"
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        sizes: dict[str, int] = record["files"]
        packages = record["packages"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{folder} was not made by endcap models fetch"
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return f"{path} is missing or was changed"
    if packages != [asdict(package) for package in model.packages]:
        return f"{folder} was made of other packages"
    return ""


def write_record(model: PretrainedModel, folder: Path) -> None:
    """Write the record of a complete folder, and where the model comes from."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    record = {
        "name": model.name,
        "original": model.original,
        "licence": model.licence,
        "origin": model.origin,
        "packages": [asdict(package) for package in model.packages],
        "files": {path.relative_to(folder).as_posix(): path.stat().st_size for path in files},
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
