"""The engines `theme_llm` and `keyword_llm`: their declarations, and how their students are opened."""

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
_PRECISION = "of what is not 8-bit, on the CPU; auto: bf16 where the CPU computes with it"


class LlmParameters(ModelParameters):
    """Parameters of `theme_llm/config.pbtxt` and `keyword_llm/config.pbtxt`."""

    implementation: Literal["openvino_genai", "tensorrt_llm"] = Field("openvino_genai", description="what decodes")
    threads: int = Field(2, ge=1, le=1024, description="CPU threads of a decoding step")
    precision: str = precision_field("f32", _PRECISION)
    cache_mb: int = Field(64, ge=1, le=65536, description="memory for keys and values, MB (2**20 bytes)")
    max_sequences: int = Field(32, ge=1, le=1024, description="sequences decoded together")
    max_waiting: int = Field(256, ge=1, description="prompts that may wait; more are refused at once")


class KeywordLlmParameters(LlmParameters):
    """Parameters of `keyword_llm`: it mainly reads long prompts, which is faster in bf16."""

    precision: str = precision_field("auto", _PRECISION)


LLM_PARAMETERS: dict[str, type[LlmParameters]] = {"theme_llm": LlmParameters, "keyword_llm": KeywordLlmParameters}
"""By model name."""


def _declare(name: str, summary: str) -> ModelDeclaration:
    """An engine that runs the student of the build step of the same name."""
    return ModelDeclaration(
        name=name,
        summary=summary,
        inputs=(tensor("PROMPT", "STRING", -1), tensor("GRAMMAR", "STRING", -1), tensor("MAX_TOKENS", "INT32", 1)),
        outputs=(tensor("TEXT", "STRING", -1), tensor("FINISH", "STRING", -1)),
        parameters=LLM_PARAMETERS[name],
        files=lambda settings: tuple(f"{name}/{file}" for file in IMPLEMENTATIONS[settings.implementation].files),
        devices={"implementation": {each: found.device for each, found in IMPLEMENTATIONS.items()}},
        gpu=GpuProfile(
            "TensorRT-LLM on one GPU",
            {"implementation": "tensorrt_llm", "cache_mb": 2048, "max_sequences": 128, "max_waiting": 1024},
        ),
    )


THEME_LLM = _declare("theme_llm", "Engine: LLM 1, in-flight batching, a grammar per request.")
KEYWORD_LLM = _declare("keyword_llm", "Engine: LLM 2, in-flight batching, a grammar per request.")


def open_llm(folder: Path, settings: LlmParameters) -> LlmEngine:
    """Load the student that a build step wrote to ``folder``; only the chosen implementation is imported."""
    limits = settings.model_dump(include={"cache_mb", "max_sequences", "max_waiting"})
    if settings.implementation == "tensorrt_llm":
        from endcap_server.engines.trtllm import TrtLlm

        return TrtLlm(folder / "trtllm", **limits)
    from endcap_server.engines.llm import Llm

    return Llm(folder, threads=settings.threads, precision=settings.precision, **limits)
