"""Writes the model repository that Triton reads, with each model of a generation under its name there."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from endcap_server.lint.repository import CONFIG, Config, View
from endcap_server.models import base_name
from endcap_server.serving.generation import Generation, StateFolder, write_whole


def render_models(state: StateFolder, view: View, generation: Generation) -> None:
    """Write the folders of the models that a generation does not share, and of its ensembles under staging names."""
    for model, name in generation.models.items():
        config = view.configs[model]
        if generation.owners[model] == generation.number and model not in generation.public:
            folder = state.models / name
            _copy_model(config.folder, folder)
            write_whole(folder / CONFIG, text_format.MessageToString(_config(config, generation, folder)))


def render_ensemble(state: StateFolder, view: View, generation: Generation, ensemble: str, name: str) -> None:
    """Write a public ensemble of a generation as the model `name`; an existing one is replaced atomically."""
    config = view.configs[ensemble]
    folder = state.models / name
    if not folder.exists():
        _copy_model(config.folder, folder)
    write_whole(folder / CONFIG, text_format.MessageToString(_config(config, generation, folder)))


def _copy_model(source: Path, folder: Path) -> None:
    """Copy a model's files without its configurations; the effective one is written separately."""
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", ".*", CONFIG, "configs")
    shutil.copytree(source, folder, ignore=ignored)
    versions = [each for each in folder.iterdir() if each.name.isdigit()]
    for version in versions:
        # The backend's Python ignores PYTHONDONTWRITEBYTECODE. Triton would take compiled code beside model.py for a
        # change of the model, and load it again with the next ensemble. A file of this name prevents the folder.
        (version / "__pycache__").touch()
    if not versions:
        (folder / "1").mkdir()


def _config(config: Config, generation: Generation, folder: Path) -> Any:
    """The configuration of a model that runs under another name, reads another folder and calls other engines."""
    proto = type(config.proto)()
    proto.CopyFrom(config.proto)
    proto.ClearField("name")
    for step in proto.ensemble_scheduling.step:
        step.model_name = generation.models.get(step.model_name, step.model_name)
    if config.is_ensemble:
        return proto
    given = config.texts().get("build", "../..")
    snapshot = config.folder.parent.parent
    build = Path(os.path.normpath(config.folder / given))
    if snapshot in (build, *build.parents):
        given = os.path.relpath(build, folder)
    proto.parameters["build"].string_value = given
    names = {engine: generation.models.get(model, model) for engine, model in config.engines.items()}
    if any(engine != name for engine, name in names.items()):
        proto.parameters["engines"].string_value = json.dumps(names)
    if base_name(config.model) == "fusion":
        proto.parameters["generation"].string_value = str(generation.number)
    return proto
