"""The `keyword_llm` engine as a Triton model."""

from pathlib import Path

from endcap_server.declared.tensors import Tensors, texts_of
from endcap_server.engines.keyword_llm import (
    KEYWORD_LLM,
    KeywordLlm,
    KeywordLlmParameters,
    KeywordLlmRequest,
    KeywordLlmResult,
)
from endcap_server.triton.engine_model import BatchingModel


class TritonPythonModel(BatchingModel):
    """PROMPT [T], COUNT [T] -> ORDER, LOGIT [T, M]."""

    declaration = KEYWORD_LLM
    caches = False

    def open(self, build: Path, settings: KeywordLlmParameters) -> KeywordLlm:
        """Load and return the engine."""
        self.max_batch_cost = settings.max_batch_prompts
        return KeywordLlm(build / self.name, settings.runtime())

    def read(self, tensors: Tensors, deadline_ns: int) -> KeywordLlmRequest:
        """The request; raises InvalidRequest."""
        request: KeywordLlmRequest = self.engine.request(texts_of(tensors["PROMPT"]), tensors["COUNT"], deadline_ns)
        return request

    def cost(self, work: KeywordLlmRequest) -> float:
        """Prompts of the request."""
        return float(len(work.prompts))

    def tensors(self, result: KeywordLlmResult) -> Tensors:
        """The outputs of one answer."""
        return result.tensors
