"""Tensors and parameters between the Python backend and NumPy."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from endcap_server.declared.tensors import Tensors


def input_names(model_config: str) -> tuple[str, ...]:
    """Names of a model's inputs, from the configuration that Triton passes to `initialize`."""
    return tuple(each["name"] for each in json.loads(model_config)["input"])


def config_parameters(model_config: str) -> dict[str, str]:
    """The model's parameters, key to text."""
    return {key: value["string_value"] for key, value in json.loads(model_config).get("parameters", {}).items()}


def build_folder(args: Mapping[str, str], parameters: dict[str, str]) -> Path:
    """The build that a model serves; removes `build` from `parameters`.

    The parameter is a path relative to the model's own folder, so that a build can be moved or copied as a whole.
    """
    return (Path(args["model_repository"]) / parameters.pop("build", "../..")).resolve()


def engine_names(parameters: dict[str, str]) -> dict[str, str]:
    """Engine -> model to call for it, if the name differs; removes `engines` from `parameters`."""
    names: dict[str, str] = json.loads(parameters.pop("engines", "{}"))
    return names


def read_inputs(request: Any, names: Iterable[str]) -> Tensors:
    """Copies of a request's tensors: the stub's memory is reused when `execute` returns."""
    tensors = {}
    for name in names:
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        if tensor is not None:
            tensors[name] = np.array(tensor.as_numpy())
    return tensors


def deadline_of(request: Any) -> int | None:
    """The parameter `deadline_ns` (monotonic clock) of a stage's request; None without one."""
    parameters = request.parameters()
    value = json.loads(parameters).get("deadline_ns") if parameters else None
    return int(value) if value is not None else None


def output_tensors(tensors: Tensors, requested: Iterable[str]) -> list[Any]:
    """The requested ones of these outputs, ready to be sent."""
    return [pb_utils.Tensor(name, np.ascontiguousarray(tensors[name])) for name in requested if name in tensors]


def complete(sender: Any, response: Any) -> None:
    """Send a request's only response."""
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def refuse(sender: Any, message: str, code: int) -> None:
    """Complete the request with an error."""
    complete(sender, pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code)))
