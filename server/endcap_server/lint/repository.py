"""A model repository as the checks see it: parsed configurations in which everything knows its line."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from endcap_server.lint.finding import Finding, Where
from endcap_server.lint.pbtxt import Document, Field, read_document

CONFIG = "config.pbtxt"
PROFILES = ("cpu", "gpu")
"""cpu is every model's config.pbtxt; another profile replaces it by configs/PROFILE.pbtxt where a model has one."""


@dataclass(frozen=True, eq=False)
class ConfiguredTensor:
    """An input or output of a model."""

    name: str
    data_type: str
    """As in the config, without TYPE_."""
    dims: tuple[int, ...]
    """Without the batch dimension, -1 is any size."""
    optional: bool
    batching: bool
    where: Where
    source: Field

    @property
    def full_dims(self) -> tuple[int, ...]:
        """The shape of the tensor itself: with the batch dimension of a model that batches."""
        return (-1, *self.dims) if self.batching else self.dims

    def place(self, name: str) -> Where:
        """Where the field `name` of the tensor stands."""
        return Where(self.where.path, self.source.find(name).line)

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
    inputs: tuple[Link, ...]
    outputs: tuple[Link, ...]
    where: Where
    source: Field

    def place(self, name: str) -> Where:
        """Where the field `name` of the step stands."""
        return Where(self.where.path, self.source.find(name).line)


@dataclass(frozen=True, eq=False)
class Parameter:
    """An entry of `parameters`."""

    key: str
    value: str
    given: bool
    """Whether there is a `string_value` at all."""
    where: Where
    value_where: Where
    comment: tuple[tuple[int, str], ...]
    """(line, text) of the comment above it."""


@dataclass(frozen=True, eq=False)
class Config:
    """One configuration file."""

    model: str
    """Name of the model's folder."""
    path: Path
    proto: Any
    document: Document = field(repr=False)

    @property
    def folder(self) -> Path:
        """The model's folder."""
        return self.path.parent if self.path.name == CONFIG else self.path.parent.parent

    @property
    def is_ensemble(self) -> bool:
        """Whether Triton would run it as an ensemble."""
        return bool(self.proto.platform == "ensemble" or self.proto.HasField("ensemble_scheduling"))

    @property
    def batching(self) -> bool:
        """Whether its tensors have a batch dimension that the configuration does not name."""
        return bool(self.proto.max_batch_size > 0)

    def place(self, *path: str) -> Where:
        """Where a field stands; if it is not given, the nearest field around it, or the start of the file."""
        found = self.document.root.find(*path)
        if found is self.document.root:
            return Where(self.path, min((each.line for each in found.fields), default=1))
        return Where(self.path, found.line)

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
        sources = self.document.root.find("ensemble_scheduling").all("step")
        return tuple(
            ConfiguredStep(
                number=number,
                model=step.model_name,
                version=step.model_version,
                inputs=self._links(source, "input_map"),
                outputs=self._links(source, "output_map"),
                where=Where(self.path, source.find("model_name").line),
                source=source,
            )
            for number, (step, source) in enumerate(
                zip(self.proto.ensemble_scheduling.step, sources, strict=True), start=1
            )
        )

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every entry of `parameters`, also those that a later one replaces."""
        return tuple(
            Parameter(
                key=entry.text("key"),
                value=entry.find("value", "string_value").value,
                given=bool(entry.find("value").all("string_value")),
                where=Where(self.path, entry.line),
                value_where=Where(self.path, entry.find("value", "string_value").line),
                comment=tuple(self.document.comment_above(entry.line)),
            )
            for entry in self.document.root.all("parameters")
        )

    def texts(self) -> dict[str, str]:
        """The parameters as Triton hands them to the model."""
        return {each.key: each.value for each in self.parameters if each.given}

    def parameter(self, key: str) -> Parameter | None:
        """The entry that counts, if there is one."""
        return next((each for each in reversed(self.parameters) if each.key == key), None)

    def _tensors(self, kind: str) -> tuple[ConfiguredTensor, ...]:
        sources = self.document.root.all(kind)
        found = []
        for tensor, source in zip(getattr(self.proto, kind), sources, strict=True):
            # An ensemble's callers see `reshape`, a step's neighbours see `dims`: so Triton compares them.
            shape = tensor.reshape.shape if self.is_ensemble and tensor.HasField("reshape") else tensor.dims
            found.append(
                ConfiguredTensor(
                    name=tensor.name,
                    data_type=model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_"),
                    dims=tuple(shape),
                    optional=getattr(tensor, "optional", False),
                    batching=self.batching,
                    where=Where(self.path, source.find("name").line),
                    source=source,
                )
            )
        return tuple(found)

    def _links(self, step: Field, name: str) -> tuple[Link, ...]:
        entries = step.all(name)
        return tuple(Link(each.text("key"), each.text("value"), Where(self.path, each.line)) for each in entries)


@dataclass(frozen=True, eq=False)
class Model:
    """A folder of the repository."""

    folder: Path
    configs: dict[str, Config]
    """By profile; a profile without a file of its own is not here."""
    unreadable: frozenset[str]
    """Profiles whose file is there and cannot be read."""
    versions: dict[int, Path]

    @property
    def name(self) -> str:
        """The folder's name, which is the model's."""
        return self.folder.name

    @property
    def has_config(self) -> bool:
        """Whether there is a config.pbtxt, readable or not."""
        return "cpu" in self.configs or "cpu" in self.unreadable


@dataclass(frozen=True, eq=False)
class Repository:
    """A folder of models."""

    folder: Path
    models: dict[str, Model]
    broken: tuple[tuple[Where, str], ...]
    """(place, message) of the files that cannot be read."""

    @property
    def is_built(self) -> bool:
        """Whether it is the one of a build, with its artefacts beside it."""
        return self.folder.name == "repository" or (self.folder.resolve().parent / "manifest.json").exists()


@dataclass(eq=False)
class View:
    """The repository as a server of one profile would load it."""

    repository: Repository
    profile: str
    hashes: bool = True
    """Whether files of a build are read whole to compare their hashes."""
    findings: list[Finding] = field(default_factory=list)
    """Of the checks that have run: later ones do not repeat what has its cause in one of these."""

    @cached_property
    def configs(self) -> dict[str, Config]:
        """The readable configuration of each model."""
        found = {}
        for name, model in self.repository.models.items():
            if self.profile in model.unreadable or (self.profile not in model.configs and "cpu" in model.unreadable):
                continue
            if config := model.configs.get(self.profile) or model.configs.get("cpu"):
                found[name] = config
        return found

    @property
    def has_unreadable(self) -> bool:
        """Whether there are models whose configuration cannot be read."""
        return any(model.has_config and name not in self.configs for name, model in self.repository.models.items())

    @property
    def ensembles(self) -> Iterator[Config]:
        """The ensembles among them."""
        return (config for config in self.configs.values() if config.is_ensemble)

    def exists(self, name: str) -> bool:
        """Whether the repository has a model of that name, with a configuration that may be unreadable."""
        model = self.repository.models.get(name)
        return model is not None and model.has_config

    def is_reported(self, where: Where) -> bool:
        """Whether an earlier check has found something there."""
        return any(finding.where == where and finding.severity == "error" for finding in self.findings)


class RepositoryError(Exception):
    """There is no repository to check; the message says what was expected."""


def read_repository(folder: Path) -> Repository:
    """Read every model of `folder`, or of the `repository/` in it if it is a build.

    Raises:
        RepositoryError: it is no folder, or holds no models.
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
    configs: dict[str, Config] = {}
    unreadable = set()
    for profile in PROFILES:
        path = folder / CONFIG if profile == "cpu" else folder / "configs" / f"{profile}.pbtxt"
        if not path.exists():
            continue
        try:
            text = path.read_text(encoding="utf-8")
            proto = text_format.Parse(text, model_config_pb2.ModelConfig())
        except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
            unreadable.add(profile)
            broken.append(_broken(path, error))
        else:
            configs[profile] = Config(folder.name, path, proto, read_document(text))
    versions = {
        int(child.name): child
        for child in sorted(folder.iterdir())
        if child.is_dir() and child.name.isascii() and child.name.isdigit() and not child.name.startswith("0")
    }
    return Model(folder, configs, frozenset(unreadable), versions)


def _broken(path: Path, error: Exception) -> tuple[Where, str]:
    if isinstance(error, UnicodeDecodeError):
        line = error.object[: error.start].count(b"\n") + 1
        return Where(path, line), f"byte 0x{error.object[error.start]:02x} is not UTF-8"
    if isinstance(error, text_format.ParseError):
        message = str(error)
        if (position := f"{error.GetLine()}:{error.GetColumn()} : ") in message:
            message = message.partition(position)[2]
        return Where(path, error.GetLine() or 1), message
    return Where(path), str(error)
