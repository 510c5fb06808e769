"""Step `repository`: assemble the Triton model repository of the build.

The models' folders are copied from `model_repository/`; their artefacts stay in the build's other folders, which the
models find by a path relative to their own (`build`, in each `config.pbtxt`), so that a build moves as a whole.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from pydantic import Field

from endcap_builders.pipeline import BuildContext, BuildError, Settings, Step

_CHECKOUT = Path(__file__).resolve().parents[3] / "model_repository"


class RepositorySettings(Settings):
    """Where the models' folders come from."""

    source: Path = Field(_CHECKOUT, description="folder with the models' config.pbtxt and model.py to copy")


def model_folders(source: Path) -> list[Path]:
    """The models' folders in `source`.

    Raises:
        BuildError: there are none.
    """
    folders = sorted(path.parent for path in source.glob("*/config.pbtxt"))
    if not folders:
        raise BuildError(f"no models in {source}: expected folders with a config.pbtxt; set repository.source")
    return folders


def source_digest(settings: RepositorySettings) -> str:
    """Hash of the models' files: an edited config is copied again."""
    digest = hashlib.sha256()
    for folder in model_folders(settings.source):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(settings.source)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def run(ctx: BuildContext, settings: RepositorySettings) -> dict[str, Any]:
    """Copy the models' folders; an ensemble needs an empty version folder, which git does not keep."""
    folders = model_folders(settings.source)
    for folder in folders:
        target = ctx.output / folder.name
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        (target / "1").mkdir(exist_ok=True)
    return {"models": len(folders)}


STEP = Step(
    name="repository",
    needs=("index", "cross_encoder", "theme_llm", "keyword_llm", "ranker"),
    settings=RepositorySettings,
    run=run,
    help="assembling the model repository",
    digest=source_digest,
)
