"""The parameters that a build serves with."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from endcap_server.declared.model import ADAPTER_PARAMETERS
from endcap_server.declared.parameters import ModelParameters
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from endcap_builders.step import BuildError

P = TypeVar("P", bound=ModelParameters)


def served_parameters(build: Path, model: str, kind: type[P]) -> P:
    """Parameters of a model in the build's repository; the defaults if the build has no repository yet.

    Raises:
        ParameterError: the configuration has a wrong value.
    """
    path = build / "repository" / model / "config.pbtxt"
    if not path.exists():
        return kind.from_strings(model, {})
    config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    given = {name: value.string_value for name, value in config.parameters.items() if name not in ADAPTER_PARAMETERS}
    return kind.from_strings(model, given)


def set_served(build: Path, model: str, kind: type[P], values: Mapping[str, float]) -> Path:
    """Write parameters into a model's configuration in the build's repository; its path. Comments stay.

    Raises:
        BuildError: the build has no repository, or the configuration does not have the parameter.
        ParameterError: a value is out of range; nothing is written.
    """
    path = build / "repository" / model / "config.pbtxt"
    if not path.exists():
        raise BuildError(f"{path}: expected a configuration, got none; run `endcap build repository` first")
    text = path.read_text(encoding="utf-8")
    for name, value in values.items():
        entry = re.compile(rf'(key:\s*"{name}"\s*value:?\s*{{\s*string_value:\s*)"[^"]*"')
        text, count = entry.subn(rf'\g<1>"{value:g}"', text)
        if count != 1:
            raise BuildError(f"{path}: expected one parameter {name}, got {count}; render it again or set it by hand")
    kind.from_strings(model, {name: f"{value:g}" for name, value in values.items()})
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
    return path
