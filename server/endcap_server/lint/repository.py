"""A model repository for the checks: parsed configurations with line numbers."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from pydantic import ValidationError
from tritonclient.grpc import model_config_pb2

from endcap_server.declared.model import ADAPTER_PARAMETERS, ModelDeclaration
from endcap_server.lint.finding import Finding, Where
from endcap_server.lint.pbtxt import Field, read_fields
from endcap_server.models import DECLARATIONS, base_name

CONFIG = "config.pbtxt"
PROFILES = ("cpu", "gpu")
"""cpu uses config.pbtxt of every model; another profile uses configs/PROFILE.pbtxt of models that have one."""


@dataclass(frozen=True, eq=False)
class ConfiguredTensor:
    """An input or output of a model."""

    name: str
    data_type: str
    """Type as in the configuration, without TYPE_."""
    dims: tuple[int, ...]
    """Dimensions without the batch dimension; -1 is any size."""
    optional: bool
    batching: bool
    source: Field

    @property
    def full_dims(self) -> tuple[int, ...]:
        """The shape of the tensor, with the batch dimension if the model batches."""
        return (-1, *self.dims) if self.batching else self.dims

    @property
    def where(self) -> Where:
        """Place of its name."""
        return self.source.place("name")

    def __str__(self) -> str:
        return f"{self.data_type} {list(self.full_dims)}"


@dataclass(frozen=True)
class Link:
    """An entry of an `input_map` or `output_map`: the step's tensor `key` is the ensemble's `tensor`."""

    key: str
    tensor: str
    where: Where


@dataclass(frozen=True, eq=False)
class ConfiguredStep:
    """One step of an ensemble."""

    number: int
    model: str
    version: int
    source: Field

    @property
    def where(self) -> Where:
        """Place of its model's name."""
        return self.source.place("model_name")

    @cached_property
    def inputs(self) -> tuple[Link, ...]:
        """Its `input_map`."""
        return self._links("input_map")

    @cached_property
    def outputs(self) -> tuple[Link, ...]:
        """Its `output_map`."""
        return self._links("output_map")

    def _links(self, name: str) -> tuple[Link, ...]:
        return tuple(Link(each.text("key"), each.text("value"), each.where) for each in self.source.all(name))


@dataclass(frozen=True, eq=False)
class Parameter:
    """An entry of `parameters`."""

    source: Field

    @property
    def key(self) -> str:
        """Name of the parameter."""
        return self.source.text("key")

    @property
    def value(self) -> str:
        """Value of the parameter."""
        return self.source.find("value", "string_value").value

    @property
    def given(self) -> bool:
        """Whether there is a `string_value` at all."""
        return bool(self.source.find("value").all("string_value"))

    @property
    def where(self) -> Where:
        """Place of the entry."""
        return self.source.where

    @property
    def value_where(self) -> Where:
        """Place of its value."""
        return self.source.place("value", "string_value")


@dataclass(frozen=True, eq=False)
class Config:
    """One configuration file."""

    model: str
    """Name of the model's folder."""
    path: Path
    proto: Any
    source: Field = field(repr=False)

    @property
    def folder(self) -> Path:
        """The model's folder."""
        return self.path.parent if self.path.name == CONFIG else self.path.parent.parent

    @property
    def is_ensemble(self) -> bool:
        """Whether Triton would run it as an ensemble."""
        return bool(self.proto.platform == "ensemble" or self.proto.HasField("ensemble_scheduling"))

    def place(self, *path: str) -> Where:
        """Place of a field; if it is not given, of the nearest enclosing field, or the start of the file."""
        return self.source.place(*path)

    @cached_property
    def inputs(self) -> tuple[ConfiguredTensor, ...]:
        """Input tensors in the order of the file."""
        return self._tensors("input")

    @cached_property
    def outputs(self) -> tuple[ConfiguredTensor, ...]:
        """Output tensors in the order of the file."""
        return self._tensors("output")

    @cached_property
    def steps(self) -> tuple[ConfiguredStep, ...]:
        """Steps of an ensemble in the order of the file."""
        sources = self.source.find("ensemble_scheduling").all("step")
        steps = zip(self.proto.ensemble_scheduling.step, sources, strict=True)
        return tuple(
            ConfiguredStep(number, step.model_name, step.model_version, source)
            for number, (step, source) in enumerate(steps, 1)
        )

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every entry of `parameters`, including those that a later one replaces."""
        return tuple(map(Parameter, self.source.all("parameters")))

    def texts(self) -> dict[str, str]:
        """The parameters as Triton passes them to the model."""
        return {each.key: each.value for each in self.parameters if each.given}

    @property
    def own_texts(self) -> dict[str, str]:
        """The parameters that the model's code declares."""
        return {key: value for key, value in self.texts().items() if key not in ADAPTER_PARAMETERS}

    @property
    def engines(self) -> dict[str, str]:
        """Engine -> model that a stage calls for it."""
        given = json.loads(self.texts().get("engines", "{}"))
        return {engine: str(given.get(engine, engine)) for engine in (self.declared.calls if self.declared else ())}

    @property
    def needs(self) -> list[str]:
        """Models that it runs as steps or calls."""
        return [*self.engines.values(), *(step.model for step in self.steps)]

    @property
    def declared(self) -> ModelDeclaration | None:
        """The declaration of the model, if it is one of endcap's stages or engines."""
        return DECLARATIONS.get(base_name(self.model))

    @property
    def settings(self) -> Any:
        """The parameters of a stage or engine, with defaults; None if they are invalid, or for other models."""
        try:
            return self.declared.parameters.model_validate(self.own_texts) if self.declared else None
        except ValidationError:
            return None

    def parameter(self, key: str) -> Parameter | None:
        """The effective entry, if there is one."""
        return next((each for each in reversed(self.parameters) if each.key == key), None)

    def _tensors(self, kind: str) -> tuple[ConfiguredTensor, ...]:
        found = []
        for tensor, source in zip(getattr(self.proto, kind), self.source.all(kind), strict=True):
            # As Triton: callers of an ensemble use `reshape`, other steps use `dims`.
            shape = tensor.reshape.shape if self.is_ensemble and tensor.HasField("reshape") else tensor.dims
            data_type = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
            optional, batching = getattr(tensor, "optional", False), self.proto.max_batch_size > 0
            found.append(ConfiguredTensor(tensor.name, data_type, tuple(shape), optional, batching, source))
        return tuple(found)


@dataclass(frozen=True, eq=False)
class Model:
    """A folder of the repository."""

    folder: Path
    configs: dict[str, Config | None]
    """Configurations by profile; None for an unreadable file, no entry for a profile without a file."""
    versions: dict[int, Path]

    @property
    def name(self) -> str:
        """The folder's name, which is the model's."""
        return self.folder.name

    @property
    def has_config(self) -> bool:
        """Whether there is a config.pbtxt, readable or not."""
        return "cpu" in self.configs


@dataclass(frozen=True, eq=False)
class Repository:
    """A folder of models."""

    folder: Path
    models: dict[str, Model]
    broken: tuple[tuple[Where, str], ...]
    """(place, message) of unreadable files."""

    @property
    def is_built(self) -> bool:
        """Whether it belongs to a build, with artefacts beside it."""
        return self.folder.name == "repository" or (self.folder.resolve().parent / "manifest.json").exists()


@dataclass(eq=False)
class View:
    """The repository as a server of one profile would load it."""

    repository: Repository
    profile: str
    hashes: bool = True
    """Whether to compare hashes of a build's files."""
    findings: list[Finding] = field(default_factory=list)
    """Findings of earlier checks; later checks do not report their consequences."""

    @cached_property
    def configs(self) -> dict[str, Config]:
        """The readable configuration of each model."""
        found = {
            name: model.configs.get(self.profile, model.configs.get("cpu"))
            for name, model in self.repository.models.items()
        }
        return {name: config for name, config in found.items() if config is not None}

    @property
    def has_unreadable(self) -> bool:
        """Whether there are models whose configuration cannot be read."""
        return any(model.has_config and name not in self.configs for name, model in self.repository.models.items())

    @property
    def ensembles(self) -> Iterator[Config]:
        """The readable configurations of ensembles."""
        return (config for config in self.configs.values() if config.is_ensemble)

    def reached(self, names: Iterable[str]) -> list[str]:
        """These models and all existing ones that they need, each after those that it needs."""
        found: dict[str, None] = {}

        def visit(name: str, below: tuple[str, ...]) -> None:
            if name in self.configs and name not in found and name not in below:
                for other in self.configs[name].needs:
                    visit(other, (*below, name))
                found[name] = None

        for name in names:
            visit(name, ())
        return list(found)

    def exists(self, name: str) -> bool:
        """Whether the repository has a model of that name, even with an unreadable configuration."""
        return name in self.repository.models and self.repository.models[name].has_config

    def is_reported(self, where: Where) -> bool:
        """Whether an earlier check has a finding there."""
        return any(finding.where == where and finding.severity == "error" for finding in self.findings)


class RepositoryError(Exception):
    """There is no repository to check; the message says what was expected."""


def read_repository(folder: Path) -> Repository:
    """Read every model of `folder`, or of the `repository/` in it if it is a build.

    Raises:
        RepositoryError: it is no folder, or contains no models.
    """
    if not folder.is_dir():
        raise RepositoryError(f"{folder}: expected a model repository, got no such folder; name one: endcap lint DIR")
    if not list(folder.glob(f"*/{CONFIG}")) and (folder / "repository").is_dir():
        folder = folder / "repository"
    broken: list[tuple[Where, str]] = []
    models = {
        child.name: _read_model(child, broken)
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith((".", "__"))
    }
    if not any(model.has_config for model in models.values()):
        raise RepositoryError(f"{folder}: expected folders with a {CONFIG}, got none; name a model repository")
    return Repository(folder, models, tuple(broken))


def _read_model(folder: Path, broken: list[tuple[Where, str]]) -> Model:
    configs: dict[str, Config | None] = {}
    for profile in PROFILES:
        path = folder / CONFIG if profile == "cpu" else folder / "configs" / f"{profile}.pbtxt"
        if not path.exists():
            continue
        try:
            text = path.read_text(encoding="utf-8")
            proto = text_format.Parse(text, model_config_pb2.ModelConfig())
            configs[profile] = Config(folder.name, path, proto, read_fields(path, text))
        except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
            configs[profile] = None
            broken.append(_broken(path, error))
    versions = {
        int(child.name): child
        for child in sorted(folder.iterdir())
        if child.is_dir() and child.name.isascii() and child.name.isdigit() and not child.name.startswith("0")
    }
    return Model(folder, configs, versions)


def _broken(path: Path, error: Exception) -> tuple[Where, str]:
    if isinstance(error, UnicodeDecodeError):
        line = error.object[: error.start].count(b"\n") + 1
        return Where(path, line), f"byte 0x{error.object[error.start]:02x} is not UTF-8"
    if isinstance(error, text_format.ParseError):
        _, found, message = str(error).partition(f"{error.GetLine()}:{error.GetColumn()} : ")
        return Where(path, error.GetLine() or 1), message if found else str(error)
    return Where(path), str(error)
