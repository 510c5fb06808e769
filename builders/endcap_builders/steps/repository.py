"""Step `repository`: assemble the Triton model repository of the build.

The models' folders are rendered from their declarations, or copied from a folder with edited ones. Their artefacts stay
in the build's other folders, which the models find by a path relative to their own (`build`, in each `config.pbtxt`),
so that a build can be moved as a whole.
"""

import hashlib
from pathlib import Path
from typing import Any

from endcap_server.serving.model_repository import rendered
from pydantic import Field

from endcap_builders.step import BuildContext, BuildError, Settings, Step


class RepositorySettings(Settings):
    """Source of the models' folders."""

    source: Path | None = Field(
        None,
        description="folder with the models' config.pbtxt and model.py to copy; default: as the models are declared",
    )


def repository_files(source: Path | None) -> dict[str, bytes]:
    """Path in the repository -> content.

    Raises:
        BuildError: there are no models in `source`.
    """
    if source is None:
        return {name: text.encode() for name, text in rendered().items()}
    folders = sorted(path.parent for path in source.glob("*/config.pbtxt"))
    if not folders:
        raise BuildError(f"no models in {source}: expected folders with a config.pbtxt; set repository.source")
    paths = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    names = {path.relative_to(source): path for path in paths}
    return {
        name.as_posix(): path.read_bytes()
        for name, path in names.items()
        if not any(part == "__pycache__" or part.startswith(".") for part in name.parts)
    }


def source_digest(settings: RepositorySettings) -> str:
    """Hash of the models' files, so that the step runs again after edits of configurations or declarations."""
    digest = hashlib.sha256()
    for name, content in sorted(repository_files(settings.source).items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def run(ctx: BuildContext, settings: RepositorySettings) -> dict[str, Any]:
    """Write the models' folders; an ensemble needs an empty version folder."""
    models = set()
    for name, content in repository_files(settings.source).items():
        path = ctx.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        models.add(Path(name).parts[0])
    for model in models:
        (ctx.output / model / "1").mkdir(exist_ok=True)
    return {"models": len(models)}


_SERVED = ("index", "cross_encoder", "theme_llm", "keyword_llm", "ranker", "postings")

STEP = Step(
    name="repository",
    needs=_SERVED,
    settings=RepositorySettings,
    run=run,
    help="assembling the model repository",
    # The files that models open are beside the repository, not in it.
    reads=dict.fromkeys(_SERVED, ()),
    digest=source_digest,
)
