"""The parameters that a build serves with."""

from pathlib import Path
from typing import TypeVar

from endcap_server.declared.model import ADAPTER_PARAMETERS
from endcap_server.declared.parameters import ModelParameters
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

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
