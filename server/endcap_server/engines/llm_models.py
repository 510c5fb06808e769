"""The engine `theme_llm`: its declaration, and how its student is opened."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from endcap_server.declared.model import GpuProfile, Implementation, ModelDeclaration, tensor
from endcap_server.declared.parameters import ModelParameters
from endcap_server.engines.encoders import precision_field
from endcap_server.engines.llm_engine import LlmEngine

_EXPORTED = tuple(
    f"openvino_{part}.{kind}" for part in ("model", "tokenizer", "detokenizer") for kind in ("xml", "bin")
)
IMPLEMENTATIONS = {
    "openvino_genai": Implementation("cpu", (*_EXPORTED, "tokenizer.json", "config.json")),
    "tensorrt_llm": Implementation("gpu", ("trtllm/config.json", "trtllm/tokenizer.json")),
}


class LlmParameters(ModelParameters):
    """Parameters of `theme_llm/config.pbtxt`."""

    implementation: Literal["openvino_genai", "tensorrt_llm"] = Field("openvino_genai", description="what decodes")
    threads: int = Field(2, ge=1, le=1024, description="CPU threads of a decoding step")
    precision: str = precision_field("of what is not 8-bit, on the CPU; auto: bf16 if the CPU has it")
    cache_mb: int = Field(64, ge=1, le=65536, description="memory for keys and values, MB (2**20 bytes)")
    max_sequences: int = Field(32, ge=1, le=1024, description="sequences decoded together")
    max_waiting: int = Field(256, ge=1, description="prompts that may wait; more are refused at once")


THEME_LLM = ModelDeclaration(
    name="theme_llm",
    summary="Engine: LLM 1, in-flight batching, a grammar per request.",
    inputs=(tensor("PROMPT", "STRING", -1), tensor("GRAMMAR", "STRING", -1), tensor("MAX_TOKENS", "INT32", 1)),
    outputs=(tensor("TEXT", "STRING", -1), tensor("FINISH", "STRING", -1)),
    parameters=LlmParameters,
    files=lambda settings: tuple(f"theme_llm/{file}" for file in IMPLEMENTATIONS[settings.implementation].files),
    devices={"implementation": {each: found.device for each, found in IMPLEMENTATIONS.items()}},
    gpu=GpuProfile(
        "TensorRT-LLM on one GPU",
        {"implementation": "tensorrt_llm", "cache_mb": 2048, "max_sequences": 128, "max_waiting": 1024},
    ),
)


def open_llm(folder: Path, settings: LlmParameters) -> LlmEngine:
    """Load the student that a build step wrote to ``folder``; only the chosen implementation is imported."""
    limits = settings.model_dump(include={"cache_mb", "max_sequences", "max_waiting"})
    if settings.implementation == "tensorrt_llm":
        from endcap_server.engines.trtllm import TrtLlm

        return TrtLlm(folder / "trtllm", **limits)
    from endcap_server.engines.llm import Llm

    return Llm(folder, threads=settings.threads, precision=settings.precision, **limits)
