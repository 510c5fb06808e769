"""The implementations of the bi-encoder and the cross-encoder: their declarations, and how they are opened."""

from pathlib import Path
from typing import Any

from pydantic import Field

from endcap_server.declared.model import Implementation
from endcap_server.engines.encoder_runtime import Encoder, EncoderRuntime, EngineLoadError, RuntimeOptions
from endcap_server.engines.tensorrt_runtime import TensorRtRuntime

IMPLEMENTATIONS = {
    "openvino": Implementation("cpu", ("model.xml", "model.bin", "tokenizer.json")),
    "tensorrt": Implementation("gpu", ("model.plan", "tokenizer.json")),
    "packed": Implementation("gpu", ("model.safetensors", "config.json", "tokenizer.json")),
}
"""Implementations of both encoders."""


PRECISION_MEANING = "bf16 is faster where the CPU has it, but near ties may then change places; auto: if it has it"


def precision_field(meaning: str = PRECISION_MEANING) -> Any:
    """The parameter `precision` of an engine; by default, equal requests have equal answers."""
    return Field(RuntimeOptions.precision, pattern="^(auto|f32|bf16)$", description=meaning)


def open_encoder(folder: Path, options: RuntimeOptions) -> Encoder:
    """Load what OpenVINO or TensorRT runs of an encoder; only the chosen implementation is imported.

    For ``packed`` the engines open `packed_runtime` themselves: it runs the two encoders in different ways.
    """
    if options.implementation == "openvino":
        return EncoderRuntime(folder / "model.xml", options)
    if options.implementation == "tensorrt":
        return TensorRtRuntime(folder / "model.plan", options)
    raise EngineLoadError(f"implementation: expected openvino or tensorrt, got {options.implementation!r}")
