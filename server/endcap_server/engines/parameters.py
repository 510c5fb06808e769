"""Parameters of the engines' ``config.pbtxt``: the one place of their types, ranges, defaults and meanings."""

from typing import Any, Literal

from pydantic import Field

from endcap_server.declared.parameters import StageParameters
from endcap_server.engines.encoder_runtime import RuntimeOptions

_OF_LLM = "of what is not 8-bit, on the CPU; auto: bf16 where the CPU computes with it"


def _precision(default: str, what: str) -> Any:
    return Field(default, pattern="^(auto|f32|bf16)$", description=what)


class NearestParameters(StageParameters):
    """Parameters of `nearest/config.pbtxt`."""

    implementation: Literal["openvino", "tensorrt"] = Field("openvino", description="what runs the bi-encoder")
    faiss_device: Literal["cpu", "gpu"] = Field("cpu", description="where FAISS searches; gpu: always exactly, in fp16")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of encoding and searching; 0: all")
    precision: str = _precision("auto", "bf16, f32, or auto: by the CPU")
    token_budget: int = Field(
        RuntimeOptions.token_budget, ge=16, le=65536, description="tokens of a micro-batch of the bi-encoder"
    )
    max_batch_requests: int = Field(64, ge=1, le=4096, description="requests that are answered in one go")
    cache_texts: int = Field(
        10_000, ge=0, le=10_000_000, description="encoded texts that are remembered (some 2 kB each)"
    )

    def runtime(self) -> RuntimeOptions:
        """How the bi-encoder runs."""
        return RuntimeOptions(
            threads=self.threads,
            precision=self.precision,
            token_budget=self.token_budget,
            implementation=self.implementation,
        )


class CrossEncoderParameters(StageParameters):
    """Parameters of `cross_encoder/config.pbtxt`."""

    implementation: Literal["openvino", "tensorrt", "packed"] = Field(
        "openvino", description="what runs the cross-encoder; packed: its checkpoint on endcap's own Triton kernels"
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: all")
    streams: int = Field(0, ge=0, le=64, description="micro-batches computed side by side; 0: one a thread, at most 8")
    precision: str = _precision("auto", "bf16, f32, or auto: bf16 where the CPU has it, or on a GPU (packed)")
    token_budget: int = Field(RuntimeOptions.token_budget, ge=16, le=65536, description="tokens of a micro-batch")
    max_batch_pairs: int = Field(1024, ge=1, description="pairs of all requests that are scored in one go")
    cache_pairs: int = Field(
        200_000, ge=0, le=10_000_000, description="scored pairs that are remembered (some 100 bytes each)"
    )

    def runtime(self) -> RuntimeOptions:
        """How the cross-encoder runs."""
        return RuntimeOptions(self.threads, self.streams, self.precision, self.token_budget, self.implementation)


class LlmParameters(StageParameters):
    """Parameters of `theme_llm/config.pbtxt` and `keyword_llm/config.pbtxt`."""

    implementation: Literal["openvino_genai", "tensorrt_llm"] = Field("openvino_genai", description="what decodes")
    threads: int = Field(2, ge=1, le=1024, description="CPU threads of a decoding step")
    precision: str = _precision("f32", _OF_LLM)
    cache_mb: int = Field(64, ge=1, le=65536, description="memory for keys and values, MB (2**20 bytes)")
    max_sequences: int = Field(32, ge=1, le=1024, description="sequences decoded together")
    max_waiting: int = Field(256, ge=1, description="prompts that may wait; more are refused at once")


class KeywordLlmParameters(LlmParameters):
    """Those of `keyword_llm`: its time goes into reading long prompts, where bf16 pays, and not into writing."""

    precision: str = _precision("auto", _OF_LLM)


LLM_PARAMETERS: dict[str, type[LlmParameters]] = {"theme_llm": LlmParameters, "keyword_llm": KeywordLlmParameters}

PARAMETERS: dict[str, type[StageParameters]] = {
    "nearest": NearestParameters,
    "cross_encoder": CrossEncoderParameters,
    **LLM_PARAMETERS,
}
"""By model name."""
